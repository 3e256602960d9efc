"""The pictures of a report: accuracy of every setting, and the paired gains."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.run.plots.style import BLACK, BLUE, DPI, ORANGE, WIDTH
from experiments.study.statistics import Setting, mean_and_deviation, paired

LINE, PANEL, FRAME = 0.42, 0.75, 0.7
"""Inches of height for a setting, around a panel, and for title and legend."""

Style = dict[str, Any]
BASE: Style = {"color": ORANGE, "marker": "o"}
SUP: Style = {"color": BLUE, "marker": "D"}
PUBLISHED: Style = {
    "color": BLACK,
    "marker": "|",
    "markersize": 16,
    "linestyle": "none",
    "zorder": 5,  # above the means, which it often meets
}

OFFSET = 0.15
"""How far the two networks of a setting lie above and below its line."""


def setting_accuracy_figure(settings: Sequence[Setting]) -> Figure | None:
    """Draw mean and standard deviation of base method and base + Sup in every setting.

    Args:
      settings: lines of the report, as `collect` returns them.

    Returns:
      The figure, one panel a data set, network and length; None if there is no setting.
    """

    def draw(axes: Axes, line: int, setting: Setting) -> None:
        above, below = line - OFFSET, line + OFFSET
        for values, y, style in ((setting.base, above, BASE), (setting.sup, below, SUP)):
            if values:
                mean, deviation = mean_and_deviation(list(values.values()))
                axes.errorbar(mean, y, xerr=deviation, capsize=3, **style)
        for value, y in zip(setting.published or (), (above, below), strict=False):
            if value is not None:
                axes.plot(value, y, **PUBLISHED)

    entries = {"base method alone": BASE, "base + Sup-tickets": SUP}
    if any(setting.published for setting in settings):
        entries["published"] = PUBLISHED
    title = "Test accuracy, mean and standard deviation over seeds"
    figure = _panels(settings, draw, title, "test accuracy (%)")
    if figure is not None:
        handles = [Line2D([], [], label=name, **style) for name, style in entries.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def setting_gain_figure(settings: Sequence[Setting]) -> Figure | None:
    """Draw the paired gain of every setting with its 95 % interval, where it has one.

    Args:
      settings: lines of the report.

    Returns:
      The figure, None if no setting has two seeds on both sides.
    """

    def draw(axes: Axes, line: int, setting: Setting) -> None:
        test = paired(setting)
        if test:
            axes.errorbar(test.mean, line, xerr=test.half_width, capsize=3, **SUP)
        axes.axvline(0, color=BLACK, linewidth=1)

    tested = [setting for setting in settings if paired(setting)]
    title = "Gain by Sup-tickets at the same total budget"
    label = "points of test accuracy, paired by seed (95 % interval)"
    return _panels(tested, draw, title, label)


def _panels(
    settings: Sequence[Setting],
    draw: Callable[[Axes, int, Setting], None],
    title: str,
    label: str,
) -> Figure | None:
    """Draw the settings line by line, in one panel for every data set, network and length."""
    groups = [list(group) for _, group in itertools.groupby(settings, key=_set_up)]
    if not groups:
        return None
    height = FRAME + PANEL * len(groups) + LINE * len(settings)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(
        len(groups), 1, squeeze=False, height_ratios=[len(group) for group in groups]
    )
    for axes, group in zip(panels[:, 0], groups, strict=True):
        for line, setting in enumerate(group):
            draw(axes, line, setting)
        names = [f"{s.key.method} {s.key.sparsity:.1%}".replace(".0%", "%") for s in group]
        variants = [f"\n{s.key.variant}" if s.key.variant else "" for s in group]
        axes.set_yticks(range(len(group)), [n + v for n, v in zip(names, variants, strict=True)])
        axes.set_ylim(len(group) - 0.5, -0.5)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.set_title(_set_up(group[0]), fontsize="medium", loc="left")
    panels[-1, 0].set_xlabel(label)
    return figure


def _set_up(setting: Setting) -> str:
    key = setting.key
    width = "" if key.width == 1 else f" x{key.width:g}"
    return f"{key.dataset}, {key.model}{width}, {key.epochs} epochs"
