r"""Tables and plots over many runs: `python -m experiments.report runs/study --out=report`.

Reads only what runs wrote (`summary.json`) and the published numbers. A cell is one data set,
network, method, sparsity and length; in it the host method alone (`sup=false`) and host +
Sup-tickets at the same total budget are compared seed by seed. Unfinished runs are counted only.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.command_line import run_command
from experiments.errors import ConfigError, RunError
from experiments.records.atomic import write_text
from experiments.records.folder import CONFIG_FILE
from experiments.records.summary import is_finished, read_summary
from experiments.study.plots import accuracy_figure, gain_figure
from experiments.study.published import SOURCE
from experiments.study.statistics import Cell, collect, mean_and_deviation, paired


def find_runs(folders: Iterable[Path]) -> tuple[list[dict[str, Any]], list[Path]]:
    """Return the summaries of finished runs below the folders, and the folders of the others."""
    summaries, unfinished = [], []
    for folder in folders:
        for config in sorted(folder.rglob(CONFIG_FILE)):
            if is_finished(config.parent):
                summaries.append(read_summary(config.parent))
            else:
                unfinished.append(config.parent)
    return summaries, unfinished


COLUMNS = (
    "dataset",
    "model",
    "epochs",
    "method",
    "sparsity",
    "variant",
    "host",
    "tickets",
    "host + Sup",
    "ensemble",
    "difference",
    "p",
    "published",
)


def row(cell: Cell) -> dict[str, str]:
    """Return a cell as text, by column."""
    test = paired(cell)
    number = cell.published
    width = "" if cell.key.width == 1 else f" x{cell.key.width:g}"
    return {
        "dataset": cell.key.dataset,
        "model": cell.key.model + width,
        "epochs": str(cell.key.epochs),
        "method": cell.key.method,
        "sparsity": f"{cell.key.sparsity:g}",
        "variant": cell.key.variant or "-",
        "host": _spread(cell.host),
        "tickets": _spread(cell.ticket),
        "host + Sup": _spread(cell.sup),
        "ensemble": _spread(cell.ensemble),
        "difference": f"{test.mean:+.2f} ± {test.half_width:.2f}" if test else "-",
        "p": f"{test.p_value:.3f}" if test else "-",
        "published": f"{_number(number.host)} -> {_number(number.sup_tickets)}" if number else "-",
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _spread(values: dict[int, float]) -> str:
    if not values:
        return "-"
    mean, deviation = mean_and_deviation(list(values.values()))
    return f"{mean:.2f} ± {deviation:.2f} ({len(values)})"


def markdown(cells: Sequence[Cell], unfinished: Sequence[Path]) -> str:
    """Return the report as Markdown."""
    shown = [c for c in COLUMNS if c != "variant" or any(cell.key.variant for cell in cells)]
    rows = [shown, ["---"] * len(shown), *([row(cell)[c] for c in shown] for cell in cells)]
    lines = ["# Report", "", *("| " + " | ".join(r) + " |" for r in rows), ""]
    lines += [
        "Test accuracy in %, mean ± standard deviation (number of seeds). `tickets`: mean of a",
        "run's tickets; `difference`: host + Sup minus host at the same total budget, paired by",
        f"seed, with its 95 % interval; `p`: two-sided paired t-test; `published`: {SOURCE},",
        "where the set-up is the published one (but for the examples held out for validation).",
    ]
    seeds = {seed for cell in cells for seed in (*cell.host, *cell.sup)}
    partial = [c for c in cells if set(c.host) != seeds or set(c.sup) != seeds]
    if unfinished or partial:
        lines += ["", f"**Partial:** {len(unfinished)} runs are unfinished; {len(partial)} of"]
        lines += [f"{len(cells)} cells lack some of the seeds {sorted(seeds)} on one side."]
    return "\n".join(lines) + "\n"


def write_report(folders: Sequence[Path], out: Path) -> str:
    """Write report.md, report.csv, report.json and two plots; return the Markdown.

    Raises:
      RunError: if there is no finished run below the folders, or they cannot be compared.
    """
    summaries, unfinished = find_runs(folders)
    if not summaries:
        raise RunError(f"no finished run below {', '.join(map(str, folders))}")
    cells = collect(summaries)
    text = markdown(cells, unfinished)
    write_text(out / "report.md", text)
    with (out / "report.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(row(cell) for cell in cells)
    content = [
        {**c._asdict(), "key": c.key._asdict(), "paired": test and test._asdict()}
        for c, test in zip(cells, map(paired, cells), strict=True)
    ]
    write_text(out / "report.json", json.dumps(content, indent=1) + "\n")
    for name, figure in (("accuracy", accuracy_figure(cells)), ("gain", gain_figure(cells))):
        if figure is not None:
            figure.savefig(out / f"{name}.png")
    return text


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("out", "report", "Folder for report.md, .csv, .json and the plots.")


def main(folders: list[str]) -> None:
    """Write the report about the runs below the folders and print its table."""
    if not folders:
        raise ConfigError("name the folders of runs: python -m experiments.report runs/study")
    out = flags.FLAGS.out
    print(write_report([Path(folder) for folder in folders], Path(out)))
    print(f"written to {out}")


if __name__ == "__main__":
    run_command(define_flags, main, arguments=True)
