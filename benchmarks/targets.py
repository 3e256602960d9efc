"""The ratios that supjax wants to reach, and what the benchmarks' files say of them."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import print_table


class Target(NamedTuple):
    """A bound on ratios of one benchmark.

    Attributes:
      text: what is compared.
      benchmark: whose JSON file holds the ratios.
      ratios: regular expression; every ratio whose whole name matches has to keep the bound.
      limit: the bound.
      at_least: whether it is a lower bound.
    """

    text: str
    benchmark: str
    ratios: str
    limit: float
    at_least: bool = False

    def meets(self, ratio: float) -> bool:
        """Say whether a ratio keeps the bound."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit


TARGETS = (
    Target("regular sparse step / dense step", "train_step", r".*, regular step, .*", 1.02),
    Target(
        "step of an own loop / dense step",
        "sparsify_overhead",
        r"training step, .* / dense",
        1.02,
    ),
    Target(
        "topology step / dense step, ImageNet ResNet-50",
        "train_step",
        r"imagenet_resnet50, topology step, .*",
        1.5,
    ),
    Target("masks / params, bytes", "train_step", r".*, masks over params", 0.25),
    Target(
        "superpose of 4 tickets / copying their weights",
        "superposition",
        r"4 tickets at .*, times a jnp copy",
        4.0,
    ),
    Target(
        "ticket file at 95 % / dense weights, bytes",
        "checkpointing",
        r"ticket at 95 %, bytes: save_ticket / dense float32",
        0.12,
    ),
    Target(
        "JaxPruner's mask update / ours, 25.5 M weights",
        "peers",
        r"mask update, \w+: jaxpruner / supjax",
        20.0,
        at_least=True,
    ),
    Target(
        "reference PyTorch step / ours, ResNet-32",
        "peers",
        r"training step, resnet32, batch 128: pytorch / supjax",
        1.0,
        at_least=True,
    ),
)


class Line(NamedTuple):
    """What a file says of a target.

    Attributes:
      name: of the ratio.
      ratio: measured.
      spread: quartiles or extremes, as the benchmark says; None where nothing varies.
      met: the verdict.
    """

    name: str
    ratio: float
    spread: Sequence[float] | None
    met: bool


def lines_of(target: Target, results: dict[str, Any]) -> list[Line]:
    """Return the ratios that a target is about, the worst first.

    Args:
      target: the bound.
      results: the content of the benchmark's file.
    """
    spreads = results.get("spreads", {})
    lines = [
        Line(name, ratio, spreads.get(name), target.meets(ratio))
        for name, ratio in results["ratios"].items()
        if re.fullmatch(target.ratios, name)
    ]
    return sorted(lines, key=lambda line: line.ratio, reverse=not target.at_least)


def print_targets(folder: Path, targets: Sequence[Target] = TARGETS) -> None:
    """Print every target beside its worst ratio.

    Args:
      folder: where the benchmarks wrote their files.
      targets: the bounds.
    """
    rows = []
    for target in targets:
        path = folder / f"{target.benchmark}.json"
        lines = lines_of(target, json.loads(path.read_text())) if path.exists() else []
        bound = f"{'>=' if target.at_least else '<='} {target.limit:g}"
        if lines:
            worst = lines[0]
            spread = " to ".join(f"{value:.3g}" for value in worst.spread or ()) or "-"
            met = sum(line.met for line in lines)
            verdict = ("met" if worst.met else "missed") + (
                f" ({met} of {len(lines)})" if len(lines) > 1 else ""
            )
            rows.append([target.text, bound, f"{worst.ratio:.3g}", spread, worst.name, verdict])
        else:
            rows.append([target.text, bound, "-", "-", "-", "not measured"])
    print_table(["target", "bound", "worst ratio", "spread", "of", "verdict"], rows)
