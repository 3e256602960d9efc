"""Pictures over the time of a run: learning rate and accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.run.plots.style import BLACK, BLUE, DPI, GREEN, ORANGE, PINK, RED, SKY, WIDTH
from supjax.schedules import CyclePlan
from supjax.types import Schedule

Row = Mapping[str, Any]

MARKS: dict[str, dict[str, Any]] = {
    "pretrained": {"label": "end of normal phase", "marker": "s", "color": BLACK, "s": 60},
    "final": {"label": "final network", "marker": "s", "color": BLACK, "s": 60},
    "ticket": {"label": "ticket", "marker": "^", "color": ORANGE, "s": 90},
    "superposed": {"label": "superposed", "marker": "D", "color": BLUE, "s": 35},
    "repaired": {"label": "repaired", "marker": "X", "color": GREEN, "s": 60},
    "ema": {"label": "moving average", "marker": "v", "color": RED, "s": 45},
    "tail": {"label": "mean of the last cycle", "marker": "P", "color": PINK, "s": 45},
}
"""How networks look by their kind; a diamond does not cover the triangle below it."""

ZOOM_BELOW = 0.4
"""A cyclic phase that is a smaller share of the run gets a panel of its own."""


def learning_rate_figure(
    rows: Sequence[Row],
    plan: CyclePlan,
    steps_per_epoch: int = 1,
    schedule: Schedule | None = None,
) -> Figure:
    """Draw the learning rate of a run, with its phases and tickets.

    Args:
      rows: metric lines; those of kind `train` count.
      plan: the phases.
      steps_per_epoch: training steps in one epoch; 1 leaves the axis in steps.
      schedule: the learning rate by training step, if it is known: drawn instead of the lines,
        which can lie too far apart to show a cycle.
    """
    steps, rates = _series(rows, ("train",), "learning_rate")
    if schedule is not None:
        steps = np.arange(1, plan.total_steps + 1)
        rates = np.asarray(jax.vmap(schedule)(jnp.asarray(steps - 1)))
    figure, panels = _over_time("Learning rate", plan, steps_per_epoch)
    positive = rates[rates > 0]
    for panel in panels:
        panel.plot(steps / steps_per_epoch, rates, color=BLUE, label="learning rate")
        for step in plan.ticket_steps:
            x = (step + 1) / steps_per_epoch
            panel.axvline(x, color=ORANGE, linestyle="--", label="ticket taken")
        panel.set_ylabel("learning rate")
        if positive.size and positive.max() > 20 * positive.min():
            panel.set_yscale("log")
    cyclic = (steps > plan.normal_steps) & (rates > 0)
    for panel in panels[1:]:
        panel.set_yscale("linear")
        panel.set_ylim(0, 1.1 * rates[cyclic].max() if cyclic.any() else None)
    _legend(figure, panels[0])
    return figure


def accuracy_figure(
    rows: Sequence[Row], networks: Sequence[Row], plan: CyclePlan, steps_per_epoch: int = 1
) -> Figure:
    """Draw accuracy over time, with the networks that the run yields as marks.

    Args:
      rows: metric lines; those of the kinds `train`, `validation`, `pretrained` and `ticket` count.
      networks: as in a run's summary; their validation accuracy is drawn, or else that on test.
      plan: the phases.
      steps_per_epoch: training steps in one epoch; 1 leaves the axis in steps.
    """
    figure, panels = _over_time("Accuracy", plan, steps_per_epoch)
    found = [(network, _accuracy(network)) for network in networks]
    scored = [(network, accuracy) for network, accuracy in found if accuracy is not None]
    # A ticket is the trained network itself at that step, evaluated on the same split.
    steps, validation = _series(rows, ("validation", "pretrained", "ticket"), "accuracy")
    train_steps, train = _series(rows, ("train",), "accuracy")
    x = train_steps / steps_per_epoch
    panels[0].plot(x, train, color=SKY, linewidth=0.8, label="training batches")
    for panel in panels:
        x = steps / steps_per_epoch
        panel.plot(x, validation, color=BLACK, linewidth=1.2, label="validation")
        for network, accuracy in scored:
            x = network["step"] / steps_per_epoch
            if network["kind"] == "ensemble":
                ends = (plan.normal_steps / steps_per_epoch, x)
                panel.plot(ends, [accuracy] * 2, color=GREEN, linestyle="--", label="ensemble")
            elif network["kind"] in MARKS:
                style = MARKS[network["kind"]]
                panel.scatter(x, accuracy, edgecolor="white", zorder=3, **style)
        panel.set_ylabel("accuracy")
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    cyclic = [*validation[steps >= plan.normal_steps], *(accuracy for _, accuracy in scored)]
    for panel in panels[1:]:
        if cyclic:
            margin = max(0.15 * (max(cyclic) - min(cyclic)), 0.002)
            panel.set_ylim(min(cyclic) - margin, max(cyclic) + margin)
    _legend(figure, panels[0])
    return figure


def _over_time(title: str, plan: CyclePlan, steps_per_epoch: int) -> tuple[Figure, list[Axes]]:
    """Return a panel for the whole run and, for a short cyclic phase, one for that alone."""
    zoomed = 0 < plan.cyclic_steps < ZOOM_BELOW * plan.total_steps
    figure = Figure(figsize=(WIDTH, 4.5), dpi=DPI, layout="constrained")
    figure.suptitle(title)
    ratios = [3, 2] if zoomed else [1]
    panels = list(figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0])
    for panel in panels:
        panel.set_xlabel("epoch" if steps_per_epoch > 1 else "training step")
        panel.grid(color="0.9", linewidth=0.6)
        for i, start in enumerate(plan.exploration_steps):
            ends = (start / steps_per_epoch, (start + plan.cycle_steps) / steps_per_epoch)
            panel.axvspan(*ends, color=("0.85", "0.92")[i % 2], label="cycle", zorder=0)
    margin = 0.02 * plan.total_steps
    panels[0].set_xlim(-margin / steps_per_epoch, (plan.total_steps + margin) / steps_per_epoch)
    if zoomed:
        margin = 0.06 * plan.cyclic_steps
        panels[0].set_title("whole run", fontsize="medium")
        panels[1].set_title("cyclic phase", fontsize="medium")
        panels[1].set_xlim(
            (plan.normal_steps - margin) / steps_per_epoch,
            (plan.total_steps + margin) / steps_per_epoch,
        )
    return figure, panels


def _legend(figure: Figure, panel: Axes) -> None:
    """Explain every label once, the shading last."""
    handles, labels = panel.get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    if "cycle" in found:
        found["cycle"] = found.pop("cycle")
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=4, frameon=False
    )


def _series(
    rows: Sequence[Row], kinds: tuple[str, ...], field: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of one field of the lines of some kinds."""
    found = [(row["step"], row[field]) for row in rows if row["kind"] in kinds and field in row]
    steps, values = np.array(found, float).reshape(-1, 2).T
    return steps, values


def _accuracy(network: Row) -> float | None:
    scores = network.get("validation") or network.get("test") or {}
    return scores.get("accuracy")
