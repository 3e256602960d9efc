"""Pictures of what tickets are and do; every function draws plain arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from experiments.run.plots.style import BLACK, BLUE, DPI, GREEN, ORANGE, SKY, WIDTH

CONTOURS = 14
"""Number of levels of loss in a plane."""


def distance_figure(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Draw square tables of distances side by side, every number readable.

    Args:
      matrices: by title, `(networks, networks)`; the row is the first argument of the distance.
      names: of the networks, at least two.
    """
    size = len(names)
    figure = Figure(figsize=(1.5 * WIDTH, 0.52 * WIDTH), dpi=DPI, layout="constrained")
    figure.suptitle("How far the networks are from each other")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for panel, (title, matrix) in zip(panels, matrices.items(), strict=True):
        others = np.ma.masked_array(matrix, np.eye(size, dtype=bool))
        image = panel.imshow(others, cmap="cividis")
        panel.set_title(title, fontsize="medium")
        panel.set_xticks(range(size), names, rotation=35, ha="right", rotation_mode="anchor")
        panel.set_yticks(range(size), names if panel is panels[0] else [""] * size)
        middle = np.mean(image.get_clim())
        for i, j in np.ndindex(size, size):
            color = "black" if i == j or matrix[i, j] > middle else "white"
            text = f"{matrix[i, j]:.2g}"
            panel.text(j, i, text, ha="center", va="center", color=color, size=min(11, 44 / size))
        figure.colorbar(image, ax=panel, shrink=0.7)
    return figure


def path_figure(
    paths: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    names: Sequence[str],
    split: str,
    via: str | None = None,
) -> Figure:
    """Draw loss and accuracy along paths between networks.

    Args:
      paths: `(positions, losses, accuracies)` by name; network i lies at position i.
      names: of the networks.
      split: the examples that were scored.
      via: what the last path passes half-way between any two networks, marked there.
    """
    figure = Figure(figsize=(WIDTH, 0.75 * WIDTH), dpi=DPI, layout="constrained")
    figure.suptitle("Along the way between the networks")
    panels = figure.subplots(2, 1, sharex=True)
    colors = (ORANGE, BLUE, GREEN)
    for row, (panel, label) in enumerate(
        zip(panels, (f"{split} loss (nats)", f"{split} accuracy"), strict=True)
    ):
        for (name, path), color in zip(paths.items(), colors, strict=False):
            panel.plot(path[0], path[1 + row], color=color, marker=".", label=name)
        if via is not None:
            positions, *values = list(paths.values())[-1]
            half = np.isclose(positions % 1, 0.5)
            panel.plot(positions[half], values[row][half], "D", color=BLUE, markersize=8, label=via)
        panel.set_ylabel(label)
        _grid(panel)
    panels[1].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    panels[1].set_xticks(range(len(names)), names)
    panels[1].set_xlabel("position on the line from one network to the next")
    for panel in panels:
        for i in range(len(names)):
            panel.axvline(i, color="0.6", linewidth=1, zorder=0)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure


def plane_figure(
    x: np.ndarray,
    y: np.ndarray,
    loss: np.ndarray,
    points: Mapping[str, Sequence[float]],
    split: str,
) -> Figure:
    """Draw loss on a plane in weight space as contours, with networks as marks.

    Args:
      x: coordinates along the line from the first corner to the second, in units of weight.
      y: coordinates at a right angle to it.
      loss: `(len(y), len(x))`, in nats.
      points: coordinates of networks by name; the first three span the plane, others are
        projected into it.
      split: the examples that were scored.
    """
    slope = float(np.clip(np.ptp(y) / np.ptp(x), 0.4, 1.4))
    figure = Figure(figsize=(WIDTH, 0.75 * WIDTH * slope + 1.2), dpi=DPI, layout="constrained")
    figure.suptitle("Loss on the plane through three networks")
    axes = figure.add_subplot()
    low, high = float(loss.min()), float(loss.max())
    steps = np.geomspace(1, 1 + 8 * (high > low), CONTOURS) - 1  # fine where the loss is low
    levels = low + (high - low) * steps / steps[-1] if high > low else [low, low + 1e-6]
    filled = axes.contourf(x, y, loss, levels=levels, cmap="cividis")
    axes.contour(x, y, loss, levels=levels, colors="white", linewidths=0.4)
    figure.colorbar(filled, label=f"{split} loss (nats)", format="%.3g")
    for i, (name, (px, py)) in enumerate(points.items()):
        marker, color = ("^", ORANGE) if i < 3 else ("D", SKY)
        axes.plot(px, py, marker, color=color, markeredgecolor=BLACK, markersize=11, zorder=3)
        axes.annotate(
            name,
            (px, py),
            xytext=(0, 11),
            textcoords="offset points",
            ha="center",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none"},
            fontsize=9,
        )
    first, second = list(points)[:2]
    axes.set_aspect("equal")
    axes.set_xlabel(f"distance from {first} towards {second} (L2 norm of weights)")
    axes.set_ylabel("distance at a right angle to it (L2 norm)")
    return figure


def reliability_figure(networks: Mapping[str, Mapping[str, Any]], split: str) -> Figure:
    """Draw accuracy against confidence, and below it how many predictions are how confident.

    Args:
      networks: by name, the scores `ece`, `nll` and `brier`, and `bins`: `counts`, `confidence`
        and `accuracy` of equal intervals of confidence.
      split: the examples that were scored.
    """
    figure = Figure(figsize=(1.4 * WIDTH, 0.68 * WIDTH), dpi=DPI, layout="constrained")
    figure.suptitle("Reliability of the predicted probabilities")
    panels = figure.subplots(
        2, len(networks), squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1]
    )
    for (upper, lower), (name, found) in zip(panels.T, networks.items(), strict=True):
        counts, confidence, accuracy = (
            np.asarray(found["bins"][field]) for field in ("counts", "confidence", "accuracy")
        )
        width = 1 / len(counts)
        middles = (np.arange(len(counts)) + 0.5) * width
        filled = counts > 0
        upper.plot([0, 1], [0, 1], color=BLACK, linestyle="--", label="perfectly calibrated")
        upper.bar(
            middles[filled],
            accuracy[filled],
            0.95 * width,
            color=SKY,
            edgecolor=BLUE,
            label="accuracy of an interval",
        )
        upper.plot(
            confidence[filled],
            accuracy[filled],
            "o",
            color=ORANGE,
            clip_on=False,
            zorder=3,
            label="at its mean confidence",
        )
        upper.set_title(
            f"{name}\nECE {100 * found['ece']:.2f} %   NLL {found['nll']:.4f}   "
            f"Brier {found['brier']:.4f}",
            fontsize="medium",
        )
        lower.bar(middles, counts / max(counts.sum(), 1), 0.95 * width, color="0.6")
        lower.set_xlabel("confidence (%)")
        lower.set_xlim(0, 1)
        for panel in (upper, lower):
            _grid(panel)
    panels[0, 0].set_ylabel(f"{split} accuracy (%)")
    panels[0, 0].set_ylim(0, 1.02)
    panels[1, 0].set_ylabel("share of\nexamples (%)")
    for axis in (panels[0, 0].yaxis, panels[1, 0].yaxis, panels[1, 0].xaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def flops_figure(layers: Sequence[str], dense: np.ndarray, sparse: np.ndarray) -> Figure:
    """Draw the forward operations of every layer, of the dense and of the sparse network.

    Args:
      layers: names.
      dense: multiplications and additions for one image, layer by layer.
      sparse: those with a weight that is kept.
    """
    figure = Figure(figsize=(WIDTH, 1.8 + 0.32 * len(layers)), dpi=DPI, layout="constrained")
    figure.suptitle(
        f"Forward pass of one image: {dense.sum() / 1e6:,.3g} million operations dense, "
        f"{sparse.sum() / 1e6:,.3g} million sparse"
    )
    axes = figure.add_subplot()
    places = np.arange(len(layers))
    axes.barh(places, dense / 1e6, 0.8, color=SKY, label="dense network")
    axes.barh(places, sparse / 1e6, 0.5, color=BLUE, label="of weights that are kept")
    for place, full, kept in zip(places, dense, sparse, strict=True):
        share = kept / full if full else 0.0
        axes.annotate(
            f"{100 * share:.3g} %",
            (full / 1e6, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(places, layers, fontsize=8)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * dense.max() / 1e6)
    axes.set_ylabel("layer")
    axes.set_xlabel("million multiplications and additions for one image")
    _grid(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def exploration_figure(
    epochs: np.ndarray,
    rates: np.ndarray,
    densities: np.ndarray,
    cycles: Sequence[tuple[float, float]] = (),
) -> Figure:
    """Draw R_s, the share of weights that have been active at least once, over time.

    Args:
      epochs: moments.
      rates: R_s at these moments.
      densities: shares of weights that are active at these moments.
      cycles: first and last epoch of every cycle, shaded.
    """
    figure = Figure(figsize=(WIDTH, 0.56 * WIDTH), dpi=DPI, layout="constrained")
    figure.suptitle("Exploration")
    axes = figure.add_subplot()
    for i, ends in enumerate(cycles):
        axes.axvspan(*ends, color=("0.85", "0.92")[i % 2], label="cycle" if not i else None)
    axes.plot(epochs, rates, color=BLUE, label="active at least once so far (R_s)")
    axes.plot(epochs, densities, color=ORANGE, linestyle="--", label="active now (density)")
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("share of the maskable weights")
    _grid(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _grid(axes: Axes) -> None:
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
