"""How many training batches a re-estimate of batch-norm statistics needs, on finished runs.

    python -m benchmarks.reestimation --workdir runs/digits [--workdir ...] [--data_dir DIR]
        [--batches 1,2,5,10,20,50,100] [--output runs/benchmarks/reestimation.json]

For each count the superposed network of each run is scored on the run's held-out split with
statistics from the first so many training batches, and, as "average", with the mean of those of
its members. The last column is the largest difference, over the runs, of the loss to that of the
largest count. Choices are made on validation data, so the runs must have set some aside.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import supjax
from benchmarks.common import print_table, write_json
from experiments.analysis.finished_run import FinishedRun

AVERAGE = "average"


class Row(NamedTuple):
    """How a run's superposed network does with statistics made in one way.

    Attributes:
      batches: from how many training batches, or `AVERAGE`.
      loss: on the run's held-out split.
      accuracy: likewise.
    """

    batches: str
    loss: float
    accuracy: float


def measure(workdir: Path, batches: Sequence[int], data_dir: str) -> list[Row]:
    """Score a run's superposed network by how its batch-norm statistics are made.

    Args:
      workdir: of a finished run with tickets and batch norm.
      batches: how many training batches, ascending.
      data_dir: TFDS's data directory; empty for the run's.
    """
    run = FinishedRun(workdir, batches=batches[-1], data_dir=data_dir)
    averaged = supjax.superpose([run.pretrained, *run.tickets])
    networks = {AVERAGE: run.superposed._replace(batch_stats=averaged.batch_stats)}
    for count in batches:
        networks[str(count)] = run.reestimated(run.superposed, count)
    scores = run.stored_scores(networks.values())
    return [Row(name, *map(float, score)) for name, *score in zip(networks, *scores, strict=True)]


def table(runs: Mapping[str, Sequence[Row]]) -> list[list[str]]:
    """Return lines of text over all runs: mean loss and accuracy, largest change of the loss.

    >>> rows = [Row("1", 0.5, 0.90), Row("2", 0.25, 0.95)]
    >>> table({"a": rows})
    [['1', '0.5000', '90.00 %', '0.2500'], ['2', '0.2500', '95.00 %', '0.0000']]
    """
    lines = []
    for column in zip(*runs.values(), strict=True):
        last = [rows[-1].loss for rows in runs.values()]
        change = max(abs(row.loss - end) for row, end in zip(column, last, strict=True))
        loss, accuracy = fmean(row.loss for row in column), fmean(row.accuracy for row in column)
        lines.append([column[0].batches, f"{loss:.4f}", f"{100 * accuracy:.2f} %", f"{change:.4f}"])
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reestimation")
    parser.add_argument("--workdir", type=Path, action="append", required=True)
    parser.add_argument("--batches", default="1,2,5,10,20,50,100")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/reestimation.json"))
    flags = parser.parse_args(arguments)
    batches = sorted(int(word) for word in flags.batches.split(","))
    runs = {str(folder): measure(folder, batches, flags.data_dir) for folder in flags.workdir}
    print_table(["batches", "loss", "accuracy", "largest change of the loss"], table(runs))
    rows = {name: [row._asdict() for row in found] for name, found in runs.items()}
    write_json(flags.output, {"runs": rows})


if __name__ == "__main__":
    main()
