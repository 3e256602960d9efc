"""Summaries of runs that never ran, for the tests of the report."""

import json
from pathlib import Path
from typing import Any

from experiments.configs import cifar10_vgg16, digits


def summary(words: str, accuracies: dict[str, list[float]], config: Any = digits) -> dict[str, Any]:
    """The summary of a run; accuracies in percent by kind of network.

    Args:
      words: argument of the config.
      accuracies: kind of network -> test accuracies.
      config: module of the config.
    """
    networks = [
        {"name": f"{kind} {i}", "kind": kind, "test": {"accuracy": value / 100, "loss": 1.0}}
        for kind, values in accuracies.items()
        for i, value in enumerate(values)
    ]
    content = {
        "result": [n["name"] for n in networks if n["kind"] != "ensemble"][-1],
        "networks": networks,
        "config": config.get_config(words).to_dict(),
    }
    return json.loads(json.dumps(content))


def pair(words: str, seed: int, base: float, sup: float, config: Any = digits) -> list[Any]:
    """Two runs of a seed: the base method alone, and with Sup-tickets."""
    words = f"{words},seed={seed}"
    tickets = {"pretrained": [sup - 2], "ticket": [sup - 1, sup - 3], "superposed": [0.0, sup]}
    return [
        summary(f"{words},sup=false", {"final": [base]}, config),
        summary(words, {**tickets, "ensemble": [sup + 1]}, config),
    ]


def published(words: str, seed: int, base: float, sup: float) -> list[Any]:
    """As `pair`, with the config of the published VGG-16."""
    return pair(words, seed, base, sup, cifar10_vgg16)


def write(folder: Path, content: dict[str, Any], *, finished: bool = True) -> None:
    """Write what the report reads of a run."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(content["config"]))
    if finished:
        (folder / "summary.json").write_text(json.dumps(content))
