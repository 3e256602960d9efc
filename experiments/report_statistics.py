"""Runs sorted into cells, and the statistics of a cell."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from scipy import stats

from experiments.errors import RunError
from experiments.published import Published, published_cells, published_setup

CONFIDENCE = 0.95


class Key(NamedTuple):
    """What the runs of one cell have in common."""

    dataset: str
    model: str
    width: float
    epochs: int
    method: str
    sparsity: float


class Cell(NamedTuple):
    """One line of the report; accuracies in percent on the test split.

    Attributes:
      key: what its runs have in common.
      host: accuracy of the host method alone, by seed.
      sup: accuracy of the superposed network, by seed.
      ticket: mean accuracy of a run's tickets, by seed.
      ensemble: accuracy of the ensemble of a run's tickets, by seed.
      published: the published numbers, where the set-up is the published one.
    """

    key: Key
    host: dict[int, float]
    sup: dict[int, float]
    ticket: dict[int, float]
    ensemble: dict[int, float]
    published: Published | None


class Paired(NamedTuple):
    """Differences `sup - host` over the seeds that both have, in points."""

    seeds: int
    mean: float
    half_width: float
    p_value: float


def collect(summaries: Iterable[dict[str, Any]]) -> list[Cell]:
    """Sort summaries into cells.

    Raises:
      RunError: if two runs of a cell share seed and kind but not the configuration.
    """
    cells: dict[Key, Cell] = {}
    configs: dict[tuple[Key, int, bool], Any] = {}
    table = published_cells()
    for summary in summaries:
        config = summary["config"]
        key = Key(
            config["dataset"],
            config["model"]["name"],
            config["model"]["width"],
            config["epochs"],
            config["method"],
            config["sparsity"],
        )
        seed, enabled = config["seed"], config["sup_tickets"]["enabled"]
        fields = {name: value for name, value in config.items() if name != "runtime"}
        if configs.setdefault((key, seed, enabled), fields) != fields:
            raise RunError(
                f"two runs of {', '.join(map(str, key))}, seed {seed}, differ in their "
                "configuration: report them apart"
            )
        if key not in cells:
            number = table.get((key.dataset, key.model, key.method, key.sparsity))
            known = number if published_setup(config) else None
            cells[key] = Cell(key, {}, {}, {}, {}, known)
        cell = cells[key]
        accuracy = defaultdict(list)
        for network in summary["networks"]:
            if "test" in network:
                accuracy[network["kind"]].append(100 * network["test"]["accuracy"])
        if not enabled:
            cell.host[seed] = accuracy["final"][-1]
            continue
        cell.sup[seed] = (accuracy["superposed"] or accuracy["final"])[-1]
        if accuracy["ticket"]:
            cell.ticket[seed] = sum(accuracy["ticket"]) / len(accuracy["ticket"])
        if accuracy["ensemble"]:
            cell.ensemble[seed] = accuracy["ensemble"][-1]
    return [cells[key] for key in sorted(cells)]


def paired(cell: Cell) -> Paired | None:
    """Return the paired difference with its 95 % interval and two-sided t-test, from 2 seeds on.

    >>> key = Key("digits", "cnn", 1.0, 10, "set", 0.9)
    >>> test = paired(Cell(key, {0: 90.0, 1: 91.0}, {0: 90.5, 1: 92.5}, {}, {}, None))
    >>> test.seeds, round(test.mean, 2), round(test.p_value, 3)
    (2, 1.0, 0.295)
    """
    seeds = sorted(cell.host.keys() & cell.sup.keys())
    if len(seeds) < 2:
        return None
    gains = [cell.sup[seed] - cell.host[seed] for seed in seeds]
    mean, error = mean_and_deviation(gains)
    error /= math.sqrt(len(gains))
    if error == 0:
        return Paired(len(gains), mean, 0.0, 0.0 if mean else 1.0)
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(gains) - 1)) * error
    return Paired(len(gains), mean, half_width, float(stats.ttest_1samp(gains, 0.0).pvalue))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (0 for a single value)."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
