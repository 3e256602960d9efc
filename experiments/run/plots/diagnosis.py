"""Picture of a run's diagnosis: what neighbouring tickets are to each other."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.run.plots.style import BLUE, DPI, GREEN, ORANGE, WIDTH
from supjax.adaptive import BARRIER_SHARE, TARGET_DISAGREEMENT
from supjax.analysis.diagnosis import HARDLY_DIFFER


def diagnosis_figure(diagnosis: Mapping[str, Any]) -> Figure:
    """Draw distance, disagreement and barrier of neighbouring tickets, with the zones to aim at.

    The zone of the disagreement is from `HARDLY_DIFFER` to twice the target; a barrier belongs
    below `BARRIER_SHARE` of its neighbours' mean loss. A distance has no zone of its own: it is
    what moves the other two.

    Args:
      diagnosis: as in `summary.json`.
    """
    losses = np.array(diagnosis["losses"], float)
    names = ["end", *map(str, range(1, len(losses)))]
    labels = [f"{a} to {b}" for a, b in pairwise(names)]
    allowed = BARRIER_SHARE * (losses[:-1] + losses[1:]) / 2
    rows = {
        "relative distance": (diagnosis["distances"], BLUE),
        "disagreement (%)": (100 * np.array(diagnosis["disagreements"], float), ORANGE),
        "barrier (nats)": (diagnosis["barriers"], GREEN),
    }
    figure = Figure(figsize=(WIDTH, 3.8), dpi=DPI, layout="constrained")
    where = f"{diagnosis['images']} {diagnosis['split']} images"
    figure.suptitle(f"Neighbouring tickets on {where}: {diagnosis['advice']}", fontsize="medium")
    panels = figure.subplots(1, len(rows))
    places = np.arange(len(labels))
    for panel, (title, (values, color)) in zip(panels, rows.items(), strict=True):
        panel.bar(places, np.array(values, float), color=color, width=0.5, zorder=2)
        panel.set_title(title, fontsize="medium")
        panel.set_xticks(places, labels, fontsize=8)
        panel.grid(axis="y", color="0.9", linewidth=0.6)
        panel.set_axisbelow(True)

    panels[1].axhspan(
        100 * HARDLY_DIFFER, 200 * TARGET_DISAGREEMENT, color="0.85", zorder=0, label="target zone"
    )
    panels[2].plot(places, allowed, "k_", markersize=18, label="different basins above")
    panels[2].axhline(0, color="0.4", linewidth=0.8)
    for panel in panels[1:]:
        panel.legend(fontsize=8, frameon=False)
    return figure
