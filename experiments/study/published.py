"""The published test accuracies that runs are compared with.

`published.csv` holds the tables of Yin et al., *Superposing Many Tickets into One*, UAI 2022, in
percent (CIFAR: mean of 3 seeds; ImageNet: top-1, the base methods alone as the paper quotes them).
"""

import csv
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from supjax.schedules import CyclePlan

TABLE = Path(__file__).with_name("published.csv")
SOURCE = "Yin et al., UAI 2022"


class Published(NamedTuple):
    """One setting of the tables: test accuracy in percent, None where it was not published.

    Attributes:
      base: of the base method (the host) alone.
      sup_tickets: of the base method with Sup-tickets.
    """

    base: float | None
    sup_tickets: float | None


def published_accuracies() -> dict[tuple[str, str, str, float], Published]:
    """Return the published accuracies by `(dataset, model, method, sparsity)`.

    >>> published_accuracies()["cifar10", "vgg16", "rigl", 0.95]
    Published(base=92.7, sup_tickets=93.2)
    """
    with TABLE.open(newline="") as file:
        return {
            (row["dataset"], row["model"], row["method"], float(row["sparsity"])): Published(
                *(float(row[name]) if row[name] else None for name in Published._fields)
            )
            for row in csv.DictReader(file)
        }


PUBLISHED_CONFIGS = {
    **{
        (dataset, model): f"{dataset}_{model}"
        for dataset in ("cifar10", "cifar100")
        for model in ("vgg16", "resnet50", "wrn28_10")
    },
    ("imagenet2012", "imagenet_resnet50"): "imagenet_rn50",
}
"""The config file of every published data set and network."""

FREE_FIELDS = frozenset({"seed", "method", "sparsity", "validation_size", "runtime"})
"""Fields in which a run may differ from its config file and still be of the published set-up."""

FREE_SUP_FIELDS = frozenset({"enabled", "batch_stats", "recompute_batches"})
"""Likewise inside `sup_tickets`: the paper finds neither kind of batch-norm statistics better."""


def published_setup(config: Mapping[str, Any]) -> bool:
    """Say whether a run's config is the published set-up of its data set and network.

    The examples held out for validation do not count: the paper holds none out.

    >>> from experiments.configs.cifar10_vgg16 import get_config
    >>> published_setup(get_config("seed=3,sparsity=0.9").to_dict())
    True
    >>> published_setup(get_config("epochs=10").to_dict())
    False
    """
    name = PUBLISHED_CONFIGS.get((config["dataset"], config["model"]["name"]))
    if name is None:
        return False
    module = importlib.import_module(f"experiments.configs.{name}")
    return _fixed_fields(config) == _fixed_fields(module.get_config().to_dict())


def _fixed_fields(config: Mapping[str, Any]) -> Any:
    fixed = {name: value for name, value in config.items() if name not in FREE_FIELDS}
    sup = {k: v for k, v in config["sup_tickets"].items() if k not in FREE_SUP_FIELDS}
    plan = CyclePlan.from_epochs(
        config["epochs"],
        cycle_fraction=sup.pop("cycle_fraction"),
        cycle_epochs=sup.pop("cycle_epochs") or None,  # written out or not
        steps_per_epoch=1,
    )
    return json.loads(json.dumps({**fixed, "sup_tickets": {**sup, **plan._asdict()}}))
