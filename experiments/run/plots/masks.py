"""Pictures of masks: densities of the layers, and how much tickets have in common."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.run.plots.style import BLUE, DPI, GREEN, ORANGE, WIDTH
from supjax.masks import iou
from supjax.trees import path_str
from supjax.types import Masks

STYLES: tuple[dict[str, Any], ...] = (
    {"marker": "o", "facecolor": "white", "edgecolor": ORANGE},
    {"marker": "D", "facecolor": BLUE, "edgecolor": BLUE},
    {"marker": "s", "facecolor": GREEN, "edgecolor": GREEN},
)
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def layer_density_figure(networks: Mapping[str, Masks]) -> Figure:
    """Draw the density of every sparse layer, one row a layer.

    Args:
      networks: masks by the name of the network, at most three, such as a ticket and what
        superposition with global pruning has made of it.
    """
    densities = {name: layer_densities(masks) for name, masks in networks.items()}
    layers = sorted(next(iter(densities.values())), key=_natural)
    values = np.array([[found[layer] for layer in layers] for found in densities.values()])
    places = np.arange(len(layers))
    figure = Figure(figsize=(WIDTH, 1.6 + 0.2 * len(layers)), dpi=DPI, layout="constrained")
    figure.suptitle("Density of the layers")
    axes = figure.add_subplot()
    axes.hlines(places, values.min(axis=0), values.max(axis=0), color="0.6", zorder=1)
    for name, row, style in zip(densities, values, STYLES, strict=False):
        axes.scatter(row, places, s=30, linewidth=1.5, label=name, zorder=2, **style)
    axes.set_yticks(places, [layer.removesuffix("/kernel") for layer in layers], fontsize=8)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_ylabel("layer")
    axes.set_xlabel("share of the layer's weights that are kept")
    positive = values[values > 0]
    if positive.size and positive.max() > 5 * positive.min():
        # Linear below the smallest density, so that an empty layer has its place.
        axes.set_xscale("symlog", linthresh=positive.min(), linscale=0.3)
        left = positive.min() / 1.3
        axes.set_xticks([0.0, *(tick for tick in TICKS if tick >= left)])
        axes.set_xlim(-0.1 * left if values.min() == 0 else left, 1.15)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def mask_overlap_figure(networks: Mapping[str, Masks]) -> Figure:
    """Draw the intersection over union of every two masks as a matrix with numbers.

    Args:
      networks: masks by the name of the network.
    """
    names, masks = list(networks), list(networks.values())
    # One vector a network: `iou` then compiles once, not once for every shape.
    flat = [np.concatenate([np.ravel(m) for m in jax.tree.leaves(found)]) for found in masks]
    size = len(names)
    overlap = np.ones((size, size))
    for i in range(size):
        for j in range(i):
            overlap[i, j] = overlap[j, i] = iou(flat[i], flat[j])
    figure = Figure(figsize=(WIDTH, 0.85 * WIDTH), dpi=DPI, layout="constrained")
    figure.suptitle(
        "Overlap of the masks\n"
        f"(two random masks of these layer densities: {chance_overlap(masks[0]):.2f})"
    )
    axes = figure.add_subplot()
    image = axes.imshow(overlap, vmin=0, vmax=1, cmap="cividis")
    figure.colorbar(image, label="intersection over union", shrink=0.8)
    axes.set_xticks(range(size), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), names)
    for i, j in np.ndindex(size, size):
        color = "black" if overlap[i, j] > 0.5 else "white"
        text = f"{overlap[i, j]:.2f}"
        axes.text(j, i, text, ha="center", va="center", color=color, size=min(12, 120 / size))
    return figure


def layer_densities(masks: Masks) -> dict[str, float]:
    """Return the share of kept weights of every sparse layer by its path.

    >>> layer_densities({"bias": None, "kernel": np.array([[True, False]])})
    {'kernel': 0.5}
    """
    leaves = jax.tree_util.tree_flatten_with_path(masks)[0]
    return {path_str(path): float(np.mean(mask)) for path, mask in leaves}


def chance_overlap(masks: Masks) -> float:
    """Return the intersection over union to expect of two random masks of these densities.

    With density d of a layer of n weights: sum(n d^2) / sum(n (2 d - d^2)).

    >>> chance_overlap({"kernel": np.array([[True, False]])})
    0.3333333333333333
    """
    leaves = jax.tree.leaves(masks)
    sizes, densities = np.array([(mask.size, np.mean(mask)) for mask in leaves]).T
    both = sizes @ densities**2
    return float(both / (sizes @ (2 * densities) - both))


def _natural(path: str) -> list[Any]:
    """Order `conv2` before `conv10`."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", path))]
