"""Several seeds in one compiled program beside one seed after another.

    python -m benchmarks.seeds [--toy] [--config FILE.py:words] [--output FILE.json]

An epoch of training, as in a run, of 1, 2, 4 and 8 seeds together; the figure is how many epochs of
one seed a second takes, beside that of one seed at a time. No topology step, ticket or evaluation
is timed. About 1 minute on 2 CPU cores with the digits.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from benchmarks.common import print_table, time_interleaved, write_json
from benchmarks.run_epochs import run_epochs
from experiments.command_line import load_config
from experiments.seeds import make_folders

COUNTS: Sequence[int] = (1, 2, 4, 8)


def epoch_of(config: ConfigDict, count: int, folder: str, stack: ExitStack) -> Callable[[], Any]:
    """Return a function that trains so many seeds one further epoch."""
    seeds = [str(seed) for seed in range(count)]
    folders = make_folders(config, seeds, f"{folder}/{count}/{{seed}}")
    return run_epochs(folders, 1, stack)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds")
    parser.add_argument("--toy", action="store_true", help="one and two narrow networks")
    parser.add_argument("--config", default="experiments/configs/digits.py", help="FILE.py:words")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/seeds.json"))
    flags = parser.parse_args(arguments)
    config = load_config(flags.config)
    counts = COUNTS
    if flags.toy:
        counts = COUNTS[:2]
        config.model.update({"name": "lenet_300_100", "width": 0.05})
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        print("compiling", file=sys.stderr)
        functions = {str(count): epoch_of(config, count, folder, stack) for count in counts}
        times = time_interleaved(functions, *((3, 1.0) if flags.toy else (40, 10.0)))
    alone = times["1"].median
    faster = {name: int(name) * alone / taken.median for name, taken in times.items()}
    print(f"{config.model.name} on {config.dataset}: epochs of one seed in a second")
    print_table(
        ["seeds together", "median", "least to most", "times one by one"],
        [
            [
                name,
                f"{int(name) / taken.median:.2f}",
                f"{int(name) / taken.most:.2f} to {int(name) / taken.least:.2f}",
                f"{faster[name]:.2f}",
            ]
            for name, taken in times.items()
        ],
    )
    ratios = {f"{name} seeds together, times one by one": faster[name] for name in times}
    write_json(flags.output, {"config": flags.config, "seconds_an_epoch": times, "ratios": ratios})


if __name__ == "__main__":
    main()
