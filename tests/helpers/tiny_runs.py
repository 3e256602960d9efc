"""Runs of the main job that take a second or two, and what they leave behind."""

import json
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.configs import digits
from experiments.train import train_and_evaluate

STEPS_PER_EPOCH = 8
NORMAL_STEPS, TOTAL_STEPS = 16, 32
TOPOLOGY_STEPS = (4, 9, 14)
FILES = ("pretrained", "ticket_1", "superposed_1", "ticket_2", "superposed_2")

SMALLER = {"model.name": "lenet_300_100", "model.width": 0.1}
"""Three dense layers without batch norm: a network whose steps compile fast."""

FIELDS = {
    "batch_size": 152,
    "epochs": 4,
    "sparsity": 0.8,
    "model.width": 0.25,
    "topology.update_every": 5,
    "topology.ramp_epochs": (0, 1),
    "sup_tickets.cycle_fraction": 0.5,
    "sup_tickets.cycle_epochs": 1,
    "runtime.devices": 1,
    "runtime.plots": False,
    "runtime.tensorboard": False,
    "runtime.compilation_cache": "off",
}


def tiny_config(fields: dict[str, Any] | None = None) -> ConfigDict:
    """Two normal epochs and two cycles of one epoch, of 8 steps each, on the digits."""
    config = digits.get_config()
    config.update_from_flattened_dict(FIELDS | (fields or {}))
    return config


def tiny_flags(fields: dict[str, Any] | None = None) -> list[str]:
    """The same config on the command line."""
    return [f"--config.{name}={value}" for name, value in (FIELDS | (fields or {})).items()]


def run_tiny(workdir: Path, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train, and return the summary as it stands on disk."""
    train_and_evaluate(tiny_config(fields), workdir)
    return read_json(workdir / "summary.json")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def same_masks(first: Any, second: Any) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, first.masks, second.masks))


def numbers(tree: Any) -> list[float]:
    """All numbers in a tree of JSON."""
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, int | float)]


class Compilations(logging.Handler):
    """Context that counts what JAX compiles.

    Attributes:
      count: by the name of the function.
      messages: by the name, and the shapes and types of its arguments.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self._logger = logging.getLogger("jax._src.interpreters.pxla")

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"Compiling (?:jit\()?([\w<>]+)", record.getMessage()):
            self.count[found[1]] += 1
            self.messages[record.getMessage()] += 1

    def __enter__(self) -> "Compilations":
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *error: Any) -> None:
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)
