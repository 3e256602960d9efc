"""Runs sorted into settings, and the statistics of a setting."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from scipy import stats

from experiments.configs.common import SHORT_NAMES
from experiments.configs.fields import FIELDS
from experiments.errors import RunError
from experiments.run.build import is_sparse
from experiments.study.published import Published, published_accuracies, published_setup
from supjax.checks import some

CONFIDENCE = 0.95

NO_SPREAD = 1e-6
"""Points below which a deviation is rounding: one image more would show in any test split."""


class Key(NamedTuple):
    """What the runs of one setting have in common.

    `variant` holds further words of the config's argument, where the runs differ in them.
    """

    dataset: str
    model: str
    width: float
    epochs: int
    method: str
    sparsity: float
    variant: str = ""


class Setting(NamedTuple):
    """One line of the report; accuracies in percent on the test split.

    Attributes:
      key: what its runs have in common.
      base: accuracy of the base method (the host) alone, by seed.
      sup: accuracy of the superposed network, by seed.
      ticket: mean accuracy of a run's tickets, by seed.
      ensemble: accuracy of the ensemble of a run's tickets, by seed.
      published: the published numbers, where the set-up is the published one.
      base_ema: accuracy of the base method's moving average of the weights, by seed.
      ema: the same of the runs with Sup-tickets, by seed.
      tail: accuracy of the mean of the weights of their last cycle, by seed.
      last: accuracy of a run's last ticket, by seed.
      diagnoses: the blocks `diagnosis` of the runs that have one.
      rules: accuracy of the same tickets superposed by each rule, by seed; see
        `experiments.superpose`.
    """

    key: Key
    base: dict[int, float]
    sup: dict[int, float]
    ticket: dict[int, float]
    ensemble: dict[int, float]
    published: Published | None
    base_ema: dict[int, float] = {}  # noqa: RUF012  (never mutated here, as all that follow)
    ema: dict[int, float] = {}  # noqa: RUF012
    tail: dict[int, float] = {}  # noqa: RUF012
    last: dict[int, float] = {}  # noqa: RUF012
    diagnoses: tuple[dict[str, Any], ...] = ()
    rules: dict[str, dict[int, float]] = {}  # noqa: RUF012


class Paired(NamedTuple):
    """Differences `sup - base` over the seeds that both have, in points.

    Attributes:
      seeds: how many both have.
      mean: of their differences.
      half_width: half of the 95 % interval; None where all differences are equal, as their
        deviation of 0 says nothing of the next seed.
      p_value: of the two-sided t-test; None likewise.
    """

    seeds: int
    mean: float
    half_width: float | None
    p_value: float | None


def collect(summaries: Iterable[dict[str, Any]]) -> list[Setting]:
    """Sort summaries into settings.

    Runs that differ in words of the config's argument beyond those of `Key` (an ablation) are
    settings of their own; what concerns Sup-tickets alone leaves the base method as it is, so
    such settings share its runs.

    Raises:
      RunError: if the runs of a setting differ in anything else, as their means would mix set-ups.
    """
    groups = defaultdict(list)
    for summary in summaries:
        groups[_shared_key(summary)].append(summary)
    return [setting for key in sorted(groups) for setting in _settings(key, groups[key])]


def has_superposition(summary: dict[str, Any]) -> bool:
    """Say whether a run had cycles; one without is the base method, whatever it asked for.

    >>> has_superposition({"networks": [{"kind": "final"}]})
    False
    """
    return any(network["kind"] == "superposed" for network in summary["networks"])


def _shared_key(summary: dict[str, Any]) -> Key:
    config = summary["config"]
    model = config["model"]
    sparsity = config["sparsity"] if is_sparse(config["method"]) else 0.0
    if start := summary.get("start_from"):
        sparsity = round(1 - start["density"], 6)
    return Key(
        config["dataset"],
        model["name"],
        model["width"],
        config["epochs"],
        config["method"],
        sparsity,
    )


def _settings(key: Key, summaries: Sequence[dict[str, Any]]) -> list[Setting]:
    """Return the settings of runs that differ in their variant and seed alone."""
    sups = [summary for summary in summaries if has_superposition(summary)]
    bases = [summary for summary in summaries if not has_superposition(summary)]
    names = [
        name
        for name, path in SHORT_NAMES.items()
        if (
            name not in _KEY_WORDS
            and len({_word(s, name) for s in (sups if _concerns_sup(path) else summaries)}) > 1
        )
        or (name == "start_from" and any(s.get("start_from") for s in sups))
    ]
    base_names = [name for name in names if not _concerns_sup(SHORT_NAMES[name])]
    variants: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for summary in sups:
        variants[_variant(summary, names)].append(summary)
    matched: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for summary in bases:
        own = _variant(summary, base_names)
        of = [v for v, runs in variants.items() if _variant(runs[0], base_names) == own]
        for variant in of or [own]:
            matched[variant].append(summary)
    return [
        _setting(key._replace(variant=variant), matched[variant], variants[variant])
        for variant in sorted({*variants, *matched}, key=_natural)
    ]


_KEY_WORDS = ("method", "sparsity", "seed", "epochs", "model", "width", "sup")
"""Words of the config's argument that `Key` or the columns of the report hold."""


_DEFAULTS = {field.name: field.default for field in FIELDS}


def _concerns_sup(path: str) -> bool:
    return path.startswith("sup_tickets.")


def _word(summary: dict[str, Any], name: str) -> str:
    if name == "start_from":  # each seed has a path of its own; the budget is what they share
        start = summary.get("start_from")
        return f"{start['extra_epochs']:g} epochs extra" if start else "no"
    path, value = SHORT_NAMES[name], summary["config"]
    for part in path.split("."):
        value = value.get(part, _DEFAULTS[path])  # of a run that did not know the field yet
    return str(value).lower() if isinstance(value, bool) else str(value)


def _variant(summary: dict[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={_word(summary, name)}" for name in names)


def _natural(text: str) -> list[Any]:
    """Return a key by which `cycle_epochs=2` comes before `cycle_epochs=12`."""
    parts = re.split(r"(\d+\.?\d*)", text)
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]


def _setting(key: Key, bases: Sequence[dict[str, Any]], sups: Sequence[dict[str, Any]]) -> Setting:
    """Return one setting, from the runs of the base method alone and those with Sup-tickets."""
    runs = [*bases, *sups]
    _check_same(key, runs, ignored=("runtime", "seed", "baselines", "sup_tickets"))
    _check_same(key, sups, ignored=("runtime", "seed", "baselines"))
    known = None
    if all(published_setup(summary["config"]) for summary in runs):
        known = published_accuracies().get((key.dataset, key.model, key.method, key.sparsity))
    found = tuple(s["diagnosis"] for s in sups if s.get("diagnosis"))
    setting = Setting(key, {}, {}, {}, {}, known, {}, {}, {}, {}, found, {})
    for summary in runs:
        seed = summary["config"]["seed"]
        accuracy = defaultdict(list)
        for network in summary["networks"]:
            if "test" in network:
                accuracy[network["kind"]].append(100 * network["test"]["accuracy"])
        if not has_superposition(summary):
            setting.base[seed] = accuracy["final"][-1]
            if accuracy["ema"]:
                setting.base_ema[seed] = accuracy["ema"][-1]
            continue
        for name, row in summary.get("rules", {}).items():
            setting.rules.setdefault(name, {})[seed] = 100 * row["test_accuracy"]
        result = next(n for n in summary["networks"] if n["name"] == summary["result"])
        setting.sup[seed] = 100 * result["test"]["accuracy"]
        if accuracy["ticket"]:
            setting.ticket[seed] = sum(accuracy["ticket"]) / len(accuracy["ticket"])
            setting.last[seed] = accuracy["ticket"][-1]
        for kind in ("ensemble", "ema", "tail"):
            if accuracy[kind]:
                getattr(setting, kind)[seed] = accuracy[kind][-1]
    return setting


def _check_same(key: Key, runs: Sequence[dict[str, Any]], ignored: Sequence[str]) -> None:
    configs = [{k: v for k, v in run["config"].items() if k not in ignored} for run in runs]
    for config in configs:
        if "sup_tickets" in config:  # each seed may start from a file of its own
            config["sup_tickets"] = config["sup_tickets"] | {"start_from": ""}
    for config in configs[1:]:
        for field, value in config.items():
            if value != configs[0].get(field):
                raise RunError(
                    f"runs of {some(part for part in key if part != '')} differ in "
                    f"{field}, {configs[0].get(field)} and {value}: report them apart"
                )


def paired(setting: Setting) -> Paired | None:
    """Return the paired difference with its 95 % interval and two-sided t-test, from 2 seeds on.

    >>> key = Key("digits", "cnn", 1.0, 10, "set", 0.9)
    >>> test = paired(Setting(key, {0: 90.0, 1: 91.0}, {0: 90.5, 1: 92.5}, {}, {}, None))
    >>> test.seeds, round(test.mean, 2), round(test.p_value, 3)
    (2, 1.0, 0.295)
    >>> paired(Setting(key, {0: 90.0, 1: 91.0}, {0: 91.0, 1: 92.0}, {}, {}, None))
    Paired(seeds=2, mean=1.0, half_width=None, p_value=None)
    """
    return paired_gains(setting.base, setting.sup)


def paired_gains(before: dict[int, float], after: dict[int, float]) -> Paired | None:
    """Return the same of any two accuracies by seed.

    >>> paired_gains({0: 90.0, 1: 91.0}, {1: 92.0}) is None  # one seed in common
    True
    """
    gains = [after[seed] - before[seed] for seed in sorted(before.keys() & after.keys())]
    if len(gains) < 2:
        return None
    mean, deviation = mean_and_deviation(gains)
    if not deviation or deviation < NO_SPREAD:
        return Paired(len(gains), mean, None, None)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(gains) - 1))
    half_width = quantile * deviation / math.sqrt(len(gains))
    return Paired(len(gains), mean, half_width, float(stats.ttest_1samp(gains, 0.0).pvalue))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation (None for a single value).

    >>> mean_and_deviation([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
