r"""Tables and plots over many runs: `python -m experiments.report runs/study --out=report`.

Reads only what runs wrote (`summary.json`) and the published numbers. A setting is one data set,
network, method, sparsity and length; in it the base method (the host) alone (`sup=false`) and
base + Sup-tickets at the same total budget are compared seed by seed. A sweep that is still
running can be read too; its unfinished runs are counted only.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from absl import flags

from experiments.command_line import run_command
from experiments.errors import ConfigError, RunError
from experiments.paths import local_path
from experiments.records.atomic import write_text
from experiments.saying import say
from experiments.study.finding import find_runs
from experiments.study.plots import setting_accuracy_figure, setting_gain_figure
from experiments.study.published import SOURCE
from experiments.study.statistics import (
    NO_SPREAD,
    Paired,
    Setting,
    collect,
    mean_and_deviation,
    paired,
    paired_gains,
)
from supjax.checks import KNOWN, listed, some

COLUMNS = (
    "dataset",
    "model",
    "epochs",
    "method",
    "sparsity",
    "variant",
    "base",
    "tickets",
    "last ticket",
    "base + Sup",
    "ensemble",
    "base EMA",
    "EMA",
    "tail",
    "difference",
    "p",
    "averaging",
    "published",
)
"""Of the table for people."""

_SPREADS = {
    "base": "base",
    "tickets": "ticket",
    "last_ticket": "last",
    "base_sup": "sup",
    "ensemble": "ensemble",
}
_SPREADS |= {"base_ema": "base_ema", "ema": "ema", "tail": "tail"}
"""Columns of report.csv with mean, deviation and seeds, and the fields of `Setting` they show."""

NUMERIC_COLUMNS = (
    *("dataset", "model", "width", "epochs", "method", "sparsity", "variant"),
    *(f"{name}_{part}" for name in _SPREADS for part in ("mean", "deviation", "seeds")),
    *("difference", "difference_half_width", "difference_seeds", "p"),
    *("averaging", "averaging_half_width"),
    *("published_base", "published_base_sup"),
)
"""Of report.csv, for programs."""


def row(setting: Setting) -> dict[str, str]:
    """Return a setting as text, by column."""
    key, test, number = setting.key, paired(setting), setting.published
    averaging = paired_gains(setting.last, setting.sup)
    width = "" if key.width == 1 else f" x{key.width:g}"
    return {
        "dataset": key.dataset,
        "model": key.model + width,
        "epochs": str(key.epochs),
        "method": key.method,
        "sparsity": f"{key.sparsity:g}",
        "variant": key.variant or "-",
        "base": _spread(setting.base),
        "tickets": _spread(setting.ticket),
        "last ticket": _spread(setting.last),
        "base + Sup": _spread(setting.sup),
        "ensemble": _spread(setting.ensemble),
        "base EMA": _spread(setting.base_ema),
        "EMA": _spread(setting.ema),
        "tail": _spread(setting.tail),
        "difference": _gain(test),
        "p": _p_value(test.p_value if test else None),
        "averaging": _gain(averaging),
        "published": f"{_number(number.base)} -> {_number(number.sup_tickets)}" if number else "-",
    }


def numeric_row(setting: Setting) -> dict[str, Any]:
    """Return a setting as words and unrounded numbers, by column; None where one is unknown."""
    test, number = paired(setting), setting.published
    averaging = paired_gains(setting.last, setting.sup)
    found: dict[str, Any] = setting.key._asdict()
    for name, field in _SPREADS.items():
        values = list(getattr(setting, field).values())
        mean, deviation = mean_and_deviation(values) if values else (None, None)
        found |= {f"{name}_mean": mean, f"{name}_deviation": deviation}
        found[f"{name}_seeds"] = len(values)
    if test:
        found |= {"difference": test.mean, "difference_half_width": test.half_width}
        found |= {"difference_seeds": test.seeds, "p": test.p_value}
    if averaging:
        found |= {"averaging": averaging.mean, "averaging_half_width": averaging.half_width}
    if number:
        found |= {"published_base": number.base, "published_base_sup": number.sup_tickets}
    return {name: found.get(name) for name in NUMERIC_COLUMNS}


def _gain(test: Paired | None) -> str:
    return f"{test.mean:+.2f} ± {_number(test.half_width)}" if test else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _p_value(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _spread(values: dict[int, float]) -> str:
    if not values:
        return "-"
    mean, deviation = mean_and_deviation(list(values.values()))
    shown = None if deviation is None or deviation < NO_SPREAD else deviation
    return f"{mean:.2f} ± {_number(shown)} ({len(values)})"


def markdown(settings: Sequence[Setting], unfinished: Sequence[Path]) -> str:
    """Return the report as Markdown."""
    present = {
        "variant": any(s.key.variant for s in settings),
        "base EMA": any(s.base_ema for s in settings),
        "EMA": any(s.ema for s in settings),
        "tail": any(s.tail for s in settings),
    }
    shown = [column for column in COLUMNS if present.get(column, True)]
    rows = [shown, ["---"] * len(shown), *([row(s)[c] for c in shown] for s in settings)]
    lines = ["# Report", "", *("| " + " | ".join(r) + " |" for r in rows), ""]
    lines += [
        "Test accuracy in %, mean ± standard deviation (number of seeds). `base`: the base method",
        "(the host) alone; `base + Sup`: with Sup-tickets; `tickets`: mean of a run's tickets;",
        "`difference`: base + Sup minus base at the same total budget, paired by seed, with its",
        "95 % interval; `p`: two-sided paired t-test; `averaging`: base + Sup minus the last",
        f"ticket, what superposition itself gives; `published`: {SOURCE}, where the",
        "set-up is the published one (but for the examples held out for validation).",
    ]
    if present["base EMA"] or present["EMA"] or present["tail"]:
        lines += ["`base EMA`, `EMA`: moving averages of the weights of the base method and of the"]
        lines += ["runs with Sup-tickets; `tail`: the mean of the weights of the last cycle."]
    if any("epochs extra" in setting.key.variant for setting in settings):
        lines += ["`epochs extra`: cycles on a network that was trained before, beyond its budget."]
    lines += rule_lines(settings) + diagnosis_lines(settings)
    seeds = {seed for setting in settings for seed in (*setting.base, *setting.sup)}
    partial = [s for s in settings if set(s.base) != seeds or set(s.sup) != seeds]
    if unfinished or partial:
        lines += ["", f"**Partial:** {len(unfinished)} runs are unfinished; {len(partial)} of"]
        lines += [
            f"{len(settings)} settings lack some of the seeds {listed(sorted(seeds), KNOWN)} "
            "on one side."
        ]
    return "\n".join(lines) + "\n"


def rule_lines(settings: Sequence[Setting]) -> list[str]:
    """Return tables of all averaging rules on the same tickets, if any run was superposed so.

    One with test accuracies, one with paired differences to the base method alone at the same
    budget, and one with those to the last ticket: what averaging itself gives.
    """
    settings = [setting for setting in settings if setting.rules]
    if not settings:
        return []
    names = list(dict.fromkeys(name for setting in settings for name in setting.rules))

    def table(cell: Callable[[Setting, dict[int, float]], str], *first: str) -> list[str]:
        lines = [["setting", *first, *names], ["---", *["---:"] * (len(first) + len(names))]]
        for setting in settings:
            columns = [setting.base] * len(first) + [setting.rules.get(n, {}) for n in names]
            lines.append([_name(setting), *(cell(setting, values) for values in columns)])
        return ["| " + " | ".join(line) + " |" for line in lines]

    return [
        *["", "## Rules on the same tickets", "", "Test accuracy in %, mean ± deviation:", ""],
        *table(lambda _, values: _spread(values), "base"),
        *["", "Difference to the base method alone at the same budget, in points:", ""],
        *table(lambda setting, values: _gain(paired_gains(setting.base, values))),
        *["", "Difference to the last ticket, in points:", ""],
        *table(lambda setting, values: _gain(paired_gains(setting.last, values))),
    ]


def _name(setting: Setting) -> str:
    key = setting.key
    words = (key.dataset, key.method, f"{key.sparsity:g}", key.variant)
    return ", ".join(word for word in words if word)


def diagnosis_lines(settings: Sequence[Setting]) -> list[str]:
    """Return the table of what neighbouring tickets are to each other, by setting, if any run says.

    Distance, disagreement, barrier and norm are means over pairs and seeds.
    """
    rows = []
    for setting in settings:
        if not setting.diagnoses:
            continue
        advice, count = Counter(d["advice"] for d in setting.diagnoses).most_common(1)[0]
        means = [
            fmean(x for d in setting.diagnoses for x in d[field])
            for field in ("distances", "disagreements", "barriers")
        ]
        norm = fmean(d["norm_ratio"] for d in setting.diagnoses)
        said = f"{advice} ({count} of {len(setting.diagnoses)})"
        numbers = f"{means[0]:.2f} | {means[1]:.2%} | {means[2]:+.4f} | {norm:.2f}"
        rows.append(f"| {_name(setting)} | {numbers.replace('%', ' %')} | {said} |")
    if not rows:
        return []
    head = "| setting | distance | disagreement | barrier | norm | most often said |"
    return ["", "## Diagnosis", "", head, "|---|---:|---:|---:|---:|---|", *rows]


def write_report(folders: Sequence[Path], out: Path) -> str:
    """Write report.md, report.csv, report.json and two plots; return the Markdown.

    Raises:
      RunError: if there is no finished run below the folders, or they cannot be compared.
    """
    summaries, unfinished = find_runs(folders)
    if not summaries:
        raise RunError(f"no finished run below {some(folders)}")
    settings = collect(summaries)
    text = markdown(settings, unfinished)
    write_files(settings, text, out)
    return text


def write_files(settings: Sequence[Setting], text: str, out: Path) -> None:
    """Write the files of a report.

    Args:
      settings: what it is about.
      text: the Markdown.
      out: folder for report.md, report.csv, report.json, accuracy.png and, if any setting has two
        seeds on both sides, gain.png.
    """
    write_text(out / "report.md", text)
    table = io.StringIO()
    writer = csv.DictWriter(table, NUMERIC_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(numeric_row, settings))
    write_text(out / "report.csv", table.getvalue())
    content = [
        {**s._asdict(), "key": s.key._asdict(), "paired": test and test._asdict()}
        for s, test in zip(settings, map(paired, settings), strict=True)
    ]
    write_text(out / "report.json", json.dumps(content, indent=1) + "\n")
    figures = {
        "accuracy.png": setting_accuracy_figure(settings),
        "gain.png": setting_gain_figure(settings),
    }
    for name, figure in figures.items():
        if figure is None:
            (out / name).unlink(missing_ok=True)  # of an earlier report
        else:
            figure.savefig(out / name)


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("out", "report", "Folder for report.md, .csv, .json and the plots.")


def main(folders: list[str]) -> None:
    """Write the report about the runs below the folders and print its table."""
    if not folders:
        raise ConfigError("name the folders of runs: python -m experiments.report runs/study")
    out = flags.FLAGS.out
    below = [local_path(folder, "a folder of runs") for folder in folders]
    say(write_report(below, local_path(out, "--out")))
    say(f"written to {out}")


if __name__ == "__main__":
    run_command(define_flags, main, arguments=True)
