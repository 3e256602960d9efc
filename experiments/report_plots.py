"""The pictures of a report: accuracy of every cell, and the paired gains."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.plot_style import BLACK, BLUE, DPI, ORANGE, WIDTH
from experiments.report_statistics import Cell, mean_and_deviation, paired

LINE = 0.42
"""Inches of height for one cell."""


def accuracy_figure(cells: Sequence[Cell]) -> Figure | None:
    """Draw mean and standard deviation of host and host + Sup in every cell.

    Args:
      cells: lines of the report, as `collect` returns them.

    Returns:
      The figure, None if there is no cell.
    """
    if not cells:
        return None
    figure, axes = _frame(len(cells), "Test accuracy, mean and standard deviation over seeds")
    for i, cell in enumerate(cells):
        for values, offset, color, marker in (
            (cell.host, 0.14, ORANGE, "o"),
            (cell.sup, -0.14, BLUE, "D"),
        ):
            if values:
                mean, deviation = mean_and_deviation(list(values.values()))
                axes.errorbar(
                    mean, i + offset, xerr=deviation, color=color, marker=marker, capsize=3
                )
        if cell.published:
            for value, offset in zip(cell.published, (0.14, -0.14), strict=True):
                if value is not None:
                    axes.plot(value, i + offset, marker="|", markersize=11, color=BLACK)
    _label(axes, cells, "test accuracy (%)")
    _legend(figure, [("host alone", ORANGE, "o"), ("host + Sup-tickets", BLUE, "D")], cells)
    return figure


def gain_figure(cells: Sequence[Cell]) -> Figure | None:
    """Draw the paired gain of every cell with its 95 % interval.

    Args:
      cells: lines of the report.

    Returns:
      The figure, None if no cell has two seeds on both sides.
    """
    tested = [(cell, test) for cell in cells if (test := paired(cell))]
    if not tested:
        return None
    figure, axes = _frame(len(tested), "Gain by Sup-tickets at the same total budget")
    axes.axvline(0, color=BLACK, linewidth=1)
    for i, (_, test) in enumerate(tested):
        axes.errorbar(test.mean, i, xerr=test.half_width, color=BLUE, marker="D", capsize=3)
    _label(
        axes,
        [cell for cell, _ in tested],
        "points of test accuracy, paired by seed (95 % interval)",
    )
    return figure


def _frame(lines: int, title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, 1.6 + LINE * lines), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    figure.suptitle(title)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    return figure, axes


def _label(axes: Any, cells: Sequence[Cell], title: str) -> None:
    names = [f"{c.key.dataset} {c.key.model} {c.key.method} {c.key.sparsity:.0%}" for c in cells]
    axes.set_yticks(range(len(cells)), names)
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.set_xlabel(title)


def _legend(figure: Figure, entries: Sequence[tuple[str, str, str]], cells: Sequence[Cell]) -> None:
    axes = figure.axes[0]
    handles = [
        axes.plot([], [], color=color, marker=marker, label=name)[0]
        for name, color, marker in entries
    ]
    if any(cell.published for cell in cells):
        handles += axes.plot([], [], color=BLACK, marker="|", linestyle="none", label="published")
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
