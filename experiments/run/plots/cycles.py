"""Picture of cycles that adapt: what each ran with, and what it led to."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.run.plots.style import BLUE, DPI, GREEN, ORANGE, RED, WIDTH


def cycles_figure(cycles: Sequence[Mapping[str, Any]], target: float) -> Figure:
    """Draw highest rate, explored share and disagreement of every cycle.

    Args:
      cycles: as in `summary.json`.
      target: the disagreement that was aimed at.
    """
    rows = {
        "highest rate": ("high", 1, BLUE),
        "explored share (%)": ("exploration", 100, GREEN),
        "disagreement (%)": ("disagreement", 100, ORANGE),
    }
    figure = Figure(figsize=(WIDTH, 3.2), dpi=DPI, layout="constrained")
    figure.suptitle("Cycles that adapt", fontsize="medium")
    numbers = [cycle["number"] for cycle in cycles]
    panels = figure.subplots(1, len(rows))
    for panel, (title, (name, factor, color)) in zip(panels, rows.items(), strict=True):
        values = factor * np.array([cycle[name] for cycle in cycles], float)
        panel.plot(numbers, values, color=color, marker="o")
        panel.set_title(title, fontsize="medium")
        panel.set_xlabel("cycle")
        panel.set_xticks(numbers)
        panel.set_ylim(bottom=0)
        panel.grid(color="0.9", linewidth=0.6)
    panels[2].axhline(100 * target, color="0.4", linestyle="--", label="target")
    out = [(c["number"], 100 * c["disagreement"]) for c in cycles if not c["kept"]]
    if out:
        panels[2].scatter(
            *zip(*out, strict=True), color=RED, marker="x", zorder=3, label="left out"
        )
    panels[2].legend(fontsize=8, frameon=False)
    return figure
