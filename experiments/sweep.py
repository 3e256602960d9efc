r"""Run a grid of experiments: what is finished is skipped, what was interrupted continues.

    python -m experiments.sweep --config=experiments/configs/digits.py \
        --grid='method=set,rigl;sparsity=0.8,0.9;sup=true,false;seed=0,1,2' --folder=runs/study

The axes are words of the config's argument (`experiments.configs.common.SHORT_NAMES`). Every cell
is one call of `experiments.main` in its own folder. A cell that fails is reported and does not stop
the others; the exit status is then 1. Ctrl-C stops the running cells after they have saved.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from experiments.configs.common import SHORT_NAMES
from experiments.summary import SUMMARY_FILE

_CONFIG = flags.DEFINE_string(
    "config", "experiments/configs/digits.py", "Config file, with an argument for all cells."
)
_GRID = flags.DEFINE_string("grid", None, "Axes: name=value,value;name=value,...", required=True)
_FOLDER = flags.DEFINE_string("folder", "runs/sweep", "Folder of the sweep, one folder a cell.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Cells that run at the same time, at least 1.")
_DEVICES = flags.DEFINE_list("gpus", [], "GPUs to deal the jobs to, one each, such as 0,1,2,3.")

LOG_FILE = "log.txt"


class Cell(NamedTuple):
    """One run of a sweep: the words it adds to the config's argument."""

    words: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Folder name, such as `method=rigl,seed=0`."""
        return ",".join(f"{name}={value}" for name, value in self.words)


def parse_grid(text: str) -> list[Cell]:
    """Return the cells of a grid, the last axis running fastest.

    Raises:
      ValueError: if the text is no grid, or an axis is unknown or named twice.

    >>> [cell.name for cell in parse_grid("method=set,rigl;seed=0,1")]
    ['method=set,seed=0', 'method=set,seed=1', 'method=rigl,seed=0', 'method=rigl,seed=1']
    """
    axes: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, values = part.partition("=")
        chosen = [value.strip() for value in values.split(",") if value.strip()]
        if not equals or not chosen:
            raise ValueError(f"an axis of the grid is name=value,value; got {part!r}")
        if name not in SHORT_NAMES:
            raise ValueError(f"unknown axis {name!r}; known: {', '.join(sorted(SHORT_NAMES))}")
        if name in axes:
            raise ValueError(f"axis {name!r} is named twice")
        axes[name] = chosen
    if not axes:
        raise ValueError("the grid is empty")
    return [
        Cell(tuple(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())
    ]


def command(config: str, cell: Cell, workdir: Path, passed_on: Sequence[str]) -> list[str]:
    """Return the command of one cell."""
    file, colon, argument = config.partition(":")
    words = ",".join(filter(None, [argument if colon else "", cell.name]))
    return [
        sys.executable,
        "-m",
        "experiments.main",
        f"--config={file}:{words}",
        f"--workdir={workdir}",
        *passed_on,
    ]


def finished(workdir: Path) -> bool:
    """Say whether a cell has written its summary."""
    try:
        json.loads((workdir / SUMMARY_FILE).read_text())
    except (OSError, ValueError):
        return False
    return True


def run_sweep(
    config: str,
    cells: Sequence[Cell],
    folder: Path,
    *,
    jobs: int,
    gpus: Sequence[str],
    passed_on: Sequence[str],
) -> list[Cell]:
    """Run the cells that are missing and return those that failed.

    Args:
      config: config file, with an argument for all cells.
      cells: see `parse_grid`.
      folder: folder of the sweep.
      jobs: processes at the same time.
      gpus: GPUs that the jobs are dealt to; empty leaves the choice to JAX.
      passed_on: further flags of `experiments.main`.
    """
    waiting = [cell for cell in cells if not finished(folder / cell.name)]
    print(f"{len(cells)} cells, {len(cells) - len(waiting)} finished before, {len(waiting)} to run")
    failed: list[Cell] = []
    for cell, code, seconds in _execute(config, waiting, folder, jobs, gpus, passed_on):
        if code == 0:
            print(f"{cell.name}: {_result(folder / cell.name)} in {seconds:.0f} s", flush=True)
        else:
            failed.append(cell)
            last = _last_line(folder / cell.name / LOG_FILE)
            print(f"{cell.name}: failed with status {code}: {last}", flush=True)
    return failed


def _execute(
    config: str,
    cells: Sequence[Cell],
    folder: Path,
    jobs: int,
    gpus: Sequence[str],
    passed_on: Sequence[str],
) -> Iterator[tuple[Cell, int, float]]:
    """Yield every cell with its exit status and duration when it ends."""
    waiting = list(cells)
    free = list(gpus) if gpus else [""] * jobs
    running: dict[subprocess.Popen[bytes], tuple[Cell, str, float]] = {}
    try:
        while waiting or running:
            while waiting and free:
                cell, gpu = waiting.pop(0), free.pop(0)
                workdir = folder / cell.name
                workdir.mkdir(parents=True, exist_ok=True)
                environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
                with (workdir / LOG_FILE).open("ab") as log:
                    process = subprocess.Popen(
                        command(config, cell, workdir, passed_on),
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        start_new_session=True,  # a Ctrl-C reaches the cells once, from here
                    )
                running[process] = cell, gpu, time.monotonic()
            for process in [p for p in running if p.poll() is not None]:
                cell, gpu, begin = running.pop(process)
                free.append(gpu)
                yield cell, process.returncode, time.monotonic() - begin
            time.sleep(0.1)
    finally:  # the cells save their state, the next call continues them
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _result(workdir: Path) -> str:
    summary = json.loads((workdir / SUMMARY_FILE).read_text())
    network = next(n for n in summary["networks"] if n["name"] == summary["result"])
    scores = network.get("test") or network.get("validation")
    return f"{summary['result']}, accuracy {scores['accuracy']:.2%}" if scores else "finished"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def main(argv: list[str]) -> None:
    """Run the sweep; further flags of `experiments.main` go after `--`."""
    try:
        cells = parse_grid(_GRID.value)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if _JOBS.value < 1:
        sys.exit(f"error: --jobs must be at least 1, got {_JOBS.value}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failed = run_sweep(
            _CONFIG.value,
            cells,
            Path(_FOLDER.value),
            jobs=_JOBS.value,
            gpus=_DEVICES.value,
            passed_on=argv[1:],
        )
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    app.run(main)
