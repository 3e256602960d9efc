"""The pictures of a run."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments.records.folder import PRETRAINED, RunFolder, superposed_name, ticket_name
from experiments.records.metrics import read_metrics
from experiments.records.summary import read_summary
from experiments.run.optimizing import learning_rate_schedule
from experiments.run.plots.cycles import cycles_figure
from experiments.run.plots.diagnosis import diagnosis_figure
from experiments.run.plots.masks import layer_density_figure, mask_overlap_figure
from experiments.run.plots.time import accuracy_figure, learning_rate_figure
from supjax.schedules import CyclePlan
from supjax.types import Masks, Schedule

_log = logging.getLogger(__name__)


def plot_run(workdir: Path) -> list[Path]:
    """Draw a run from its `metrics.jsonl`, `summary.json` and `tickets/*.npz` into `plots/`.

    Args:
      workdir: folder of the run.

    Returns:
      The files that were written. A picture that cannot be drawn costs a warning, never the run;
      one that has nothing to show (the overlap of a single network) is left out.
    """
    written = []
    for name, draw in DRAWN.items():
        path = RunFolder(workdir).plots / name
        try:
            figure = draw(workdir)
            if figure is not None:
                path.parent.mkdir(exist_ok=True)
                figure.savefig(path)
                written.append(path)
        except Exception as error:
            _log.warning("%s is not drawn: %s: %s", path, type(error).__name__, error)
    return written


def _learning_rate(workdir: Path) -> Figure:
    plan, steps_per_epoch = _plan(workdir)
    summary = read_summary(workdir)
    schedule = learning_rate_schedule(ConfigDict(summary["config"]), plan, steps_per_epoch)
    if cycles := summary.get("cycles"):
        schedule = with_highs(schedule, plan, [cycle["high"] for cycle in cycles])
    return learning_rate_figure(read_metrics(workdir), plan, steps_per_epoch, schedule)


def with_highs(schedule: Any, plan: CyclePlan, highs: Sequence[float]) -> Schedule:
    """Return a schedule `(step, high) -> rate` as that of a run whose cycles rose so high.

    >>> plan = CyclePlan(normal_steps=1, cycle_steps=2, num_cycles=2)
    >>> rates = with_highs(lambda step, high: high, plan, [0.5, 0.25])
    >>> [float(rates(step)) for step in range(5)]
    [0.5, 0.5, 0.5, 0.25, 0.25]
    """
    known = jnp.asarray(highs)

    def rates(step: Any) -> Any:
        cycle = (jnp.asarray(step) - plan.normal_steps) // plan.cycle_steps
        return schedule(step, known[jnp.maximum(cycle, 0)])

    return rates


def _accuracy(workdir: Path) -> Figure:
    plan, steps_per_epoch = _plan(workdir)
    networks = read_summary(workdir)["networks"]
    return accuracy_figure(read_metrics(workdir), networks, plan, steps_per_epoch)


def _layer_density(workdir: Path) -> Figure:
    last = _plan(workdir)[0].num_cycles
    if not last:
        return layer_density_figure({"final network": _masks(workdir, PRETRAINED)})
    return layer_density_figure(
        {
            f"ticket {last}, before": _masks(workdir, ticket_name(last)),
            "superposed, after pruning back": _masks(workdir, superposed_name(last)),
        }
    )


def _mask_overlap(workdir: Path) -> Figure | None:
    last = _plan(workdir)[0].num_cycles
    if not last:
        return None
    networks = {"end of normal phase": _masks(workdir, PRETRAINED)}
    for number in range(1, last + 1):
        networks[f"ticket {number}"] = _masks(workdir, ticket_name(number))
    return mask_overlap_figure(networks)


def _plan(workdir: Path) -> tuple[CyclePlan, int]:
    plan = read_summary(workdir)["plan"]
    return CyclePlan(*(plan[name] for name in CyclePlan._fields)), plan["steps_per_epoch"]


def _masks(workdir: Path, name: str) -> Masks:
    return RunFolder(workdir).load_ticket(name).masks


def _cycles(workdir: Path) -> Figure | None:
    summary = read_summary(workdir)
    if "cycles" not in summary:
        return None
    target = summary["config"]["sup_tickets"]["target_disagreement"]
    return cycles_figure(summary["cycles"], target)


def _diagnosis(workdir: Path) -> Figure | None:
    found = read_summary(workdir).get("diagnosis")
    return None if found is None else diagnosis_figure(found)


DRAWN: dict[str, Callable[[Path], Figure | None]] = {
    "learning_rate.png": _learning_rate,
    "accuracy.png": _accuracy,
    "layer_density.png": _layer_density,
    "mask_overlap.png": _mask_overlap,
    "diagnosis.png": _diagnosis,
    "cycles.png": _cycles,
}
