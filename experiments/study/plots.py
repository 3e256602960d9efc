"""The pictures of a report: accuracy of every cell, and the paired gains."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.run.plots.style import BLACK, BLUE, DPI, ORANGE, WIDTH
from experiments.study.statistics import Cell, mean_and_deviation, paired

LINE, PANEL, FRAME = 0.42, 0.75, 0.7
"""Inches of height for a cell, around a panel, and for title and legend."""

Style = dict[str, Any]
HOST: Style = {"color": ORANGE, "marker": "o"}
SUP: Style = {"color": BLUE, "marker": "D"}
PUBLISHED: Style = {
    "color": BLACK,
    "marker": "|",
    "markersize": 16,
    "linestyle": "none",
    "zorder": 5,  # above the means, which it often meets
}

OFFSET = 0.15
"""How far the two networks of a cell lie above and below its line."""


def accuracy_figure(cells: Sequence[Cell]) -> Figure | None:
    """Draw mean and standard deviation of host and host + Sup in every cell.

    Args:
      cells: lines of the report, as `collect` returns them.

    Returns:
      The figure, one panel a data set, network and length; None if there is no cell.
    """

    def draw(axes: Axes, line: int, cell: Cell) -> None:
        for values, y, style in ((cell.host, line - OFFSET, HOST), (cell.sup, line + OFFSET, SUP)):
            if values:
                mean, deviation = mean_and_deviation(list(values.values()))
                axes.errorbar(mean, y, xerr=deviation, capsize=3, **style)
        for value, y in zip(cell.published or (), (line - OFFSET, line + OFFSET), strict=False):
            if value is not None:
                axes.plot(value, y, **PUBLISHED)

    entries = {"host alone": HOST, "host + Sup-tickets": SUP}
    if any(cell.published for cell in cells):
        entries["published"] = PUBLISHED
    title = "Test accuracy, mean and standard deviation over seeds"
    figure = _panels(cells, draw, title, "test accuracy (%)")
    if figure is not None:
        handles = [Line2D([], [], label=name, **style) for name, style in entries.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def gain_figure(cells: Sequence[Cell]) -> Figure | None:
    """Draw the paired gain of every cell with its 95 % interval.

    Args:
      cells: lines of the report.

    Returns:
      The figure, None if no cell has two seeds on both sides.
    """

    def draw(axes: Axes, line: int, cell: Cell) -> None:
        test = paired(cell)
        if test:
            axes.errorbar(test.mean, line, xerr=test.half_width, capsize=3, **SUP)
        axes.axvline(0, color=BLACK, linewidth=1)

    tested = [cell for cell in cells if paired(cell)]
    title = "Gain by Sup-tickets at the same total budget"
    label = "points of test accuracy, paired by seed (95 % interval)"
    return _panels(tested, draw, title, label)


def _panels(
    cells: Sequence[Cell], draw: Callable[[Axes, int, Cell], None], title: str, label: str
) -> Figure | None:
    """Draw the cells line by line, in one panel for every data set, network and length."""
    groups = [list(group) for _, group in itertools.groupby(cells, key=_set_up)]
    if not groups:
        return None
    height = FRAME + PANEL * len(groups) + LINE * len(cells)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(
        len(groups), 1, squeeze=False, height_ratios=[len(group) for group in groups]
    )
    for axes, group in zip(panels[:, 0], groups, strict=True):
        for line, cell in enumerate(group):
            draw(axes, line, cell)
        names = [f"{c.key.method} {c.key.sparsity:.1%}".replace(".0%", "%") for c in group]
        variants = [f"\n{c.key.variant}" if c.key.variant else "" for c in group]
        axes.set_yticks(range(len(group)), [n + v for n, v in zip(names, variants, strict=True)])
        axes.set_ylim(len(group) - 0.5, -0.5)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.set_title(_set_up(group[0]), fontsize="medium", loc="left")
    panels[-1, 0].set_xlabel(label)
    return figure


def _set_up(cell: Cell) -> str:
    key = cell.key
    width = "" if key.width == 1 else f" x{key.width:g}"
    return f"{key.dataset}, {key.model}{width}, {key.epochs} epochs"
