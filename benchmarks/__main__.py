"""Every benchmark, one process after another, then the table of targets.

    python -m benchmarks [--toy] [--only NAME,NAME] [--folder runs/benchmarks]
    python -m benchmarks --table [--folder benchmarks/results]

Run it on a machine that does nothing else; the load before each benchmark is in its file. A
benchmark that fails is reported and does not stop the others; the exit status is then 1.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import chosen
from benchmarks.targets import print_targets

BENCHMARKS = (
    "floor",
    "selection",
    "sparsify_overhead",
    "train_step",
    "cpu_step",
    "superposition",
    "checkpointing",
    "startup",
    "epoch",
    "seeds",
    "scaling",
    "growth",
    "peers",
)
"""What `make bench` runs: not `input_pipeline`, which needs a data set, nor `fault_drill`."""


def run(name: str, folder: Path, toy: bool) -> int:
    """Run a benchmark in a process of its own and return the exit status.

    Args:
      name: of the benchmark.
      folder: for its JSON file.
      toy: whether small arrays are enough.
    """
    command = [sys.executable, "-m", f"benchmarks.{name}", "--output", str(folder / f"{name}.json")]
    return subprocess.run(command + ["--toy"] * toy, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks and print the table of targets."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--toy", action="store_true", help="small arrays, to see that all run")
    parser.add_argument("--only", help=f"some of {','.join(BENCHMARKS)}")
    parser.add_argument("--table", action="store_true", help="the table of targets alone")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"))
    flags = parser.parse_args(arguments)
    names = chosen(parser, "benchmark", flags.only, BENCHMARKS)
    failed = []
    for name in [] if flags.table else names:
        print(f"\n== {name}", flush=True)
        if run(name, flags.folder, flags.toy):
            failed.append(name)
    print("\n== targets", flush=True)
    print_targets(flags.folder)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
