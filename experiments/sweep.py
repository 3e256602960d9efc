r"""Run a grid of experiments: what is finished is skipped, what was interrupted continues.

    python -m experiments.sweep --config=experiments/configs/digits.py \
        --grid='method=set,rigl;sparsity=0.8,0.9;sup=true,false;seed=0,1,2' --folder=runs/study

The axes are words of the config's argument (`experiments.configs.common.SHORT_NAMES`). Every cell
is one call of `experiments.main` in its own folder; with `--together`, cells that differ only in
their seed are one call of `experiments.seeds`, which leaves the same folders. A cell that fails is
reported and does not stop the others; the exit status is then 1. Ctrl-C stops the running cells
after they have saved.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from experiments.command_line import CONFIGS, run_command
from experiments.configs.common import SHORT_NAMES
from experiments.errors import ConfigError, RunError
from experiments.records.folder import SEED_PLACE
from experiments.records.summary import is_finished, read_summary

LOG_FILE = "log.txt"
"""What a process printed, in the folder of its first cell."""

SEED = "seed"


class Cell(NamedTuple):
    """One run of a sweep: the words it adds to the config's argument."""

    words: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Folder name, such as `method=rigl,seed=0`."""
        return ",".join(f"{name}={value}" for name, value in self.words)

    @property
    def without_seed(self) -> "Cell":
        """What a cell has in common with those that differ in their seed alone."""
        return Cell(tuple((name, value) for name, value in self.words if name != SEED))


Job = tuple[Cell, ...]
"""Cells of one process: one, or several that differ in their seed alone."""


def group_seeds(cells: Sequence[Cell]) -> list[Job]:
    """Return the cells in groups that differ in their seed alone.

    >>> [len(job) for job in group_seeds(parse_grid("seed=0,1;method=set,rigl,granet"))]
    [2, 2, 2]
    """
    groups: dict[Cell, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.without_seed, []).append(cell)
    return [tuple(group) for group in groups.values()]


def parse_grid(text: str) -> list[Cell]:
    """Return the cells of a grid, the last axis running fastest.

    Raises:
      ConfigError: if the text is no grid, or an axis is unknown or named twice.

    >>> [cell.name for cell in parse_grid("method=set,rigl;seed=0,1")]
    ['method=set,seed=0', 'method=set,seed=1', 'method=rigl,seed=0', 'method=rigl,seed=1']
    """
    axes: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, values = part.partition("=")
        chosen = [value.strip() for value in values.split(",") if value.strip()]
        if not equals or not chosen:
            raise ConfigError(f"an axis of the grid is name=value,value; got {part!r}")
        if name not in SHORT_NAMES:
            raise ConfigError(f"unknown axis {name!r}; known: {', '.join(sorted(SHORT_NAMES))}")
        if name in axes:
            raise ConfigError(f"axis {name!r} is named twice")
        if len(set(chosen)) < len(chosen):
            raise ConfigError(f"axis {name!r} has a value twice, got {values}")
        axes[name] = chosen
    if not axes:
        raise ConfigError("the grid is empty")
    return [
        Cell(tuple(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())
    ]


def command(config: str, job: Job, folder: Path, passed_on: Sequence[str]) -> list[str]:
    """Return the command of one cell, or of several seeds together.

    >>> job = parse_grid("method=set;seed=0")
    >>> command("digits.py:epochs=9", job, Path("runs"), [])[2:]
    ['experiments.main', '--config=digits.py:epochs=9,method=set,seed=0',
     '--workdir=runs/method=set,seed=0']
    """
    file, _, argument = config.partition(":")
    cell, several = job[0], len(job) > 1
    words = cell.without_seed if several else cell
    config = f"{file}:{','.join(filter(None, [argument, words.name]))}"
    if not several:
        chosen = ["experiments.main", f"--config={config}", f"--workdir={folder / cell.name}"]
        return [sys.executable, "-m", *chosen, *passed_on]
    seeds = ",".join(dict(each.words)[SEED] for each in job)
    place = Cell(tuple((name, SEED_PLACE if name == SEED else value) for name, value in cell.words))
    chosen = ["experiments.seeds", f"--config={config}", f"--seeds={seeds}"]
    return [sys.executable, "-m", *chosen, f"--workdir={folder / place.name}", *passed_on]


def run_sweep(
    config: str,
    cells: Sequence[Cell],
    folder: Path,
    *,
    jobs: int,
    gpus: Sequence[str],
    passed_on: Sequence[str],
    together: bool = False,
) -> list[Cell]:
    """Run the cells that are missing and return those that failed.

    Args:
      config: config file, with an argument for all cells.
      cells: see `parse_grid`.
      folder: folder of the sweep.
      jobs: processes at the same time.
      gpus: GPUs that the jobs are dealt to; empty leaves the choice to JAX.
      passed_on: further flags of `experiments.main`.
      together: whether the seeds of a cell share a process.
    """
    waiting = [cell for cell in cells if not is_finished(folder / cell.name)]
    print(f"{len(cells)} cells, {len(cells) - len(waiting)} finished before, {len(waiting)} to run")
    failed: list[Cell] = []
    to_run = group_seeds(waiting) if together else [(cell,) for cell in waiting]
    for job, code, seconds in _execute(config, to_run, folder, jobs, gpus, passed_on):
        for cell in job:
            if is_finished(folder / cell.name):
                print(f"{cell.name}: {_result(folder / cell.name)} in {seconds:.0f} s", flush=True)
            else:
                failed.append(cell)
                last = _last_line(folder / job[0].name / LOG_FILE)
                print(f"{cell.name}: failed with status {code}: {last}", flush=True)
    return failed


def _execute(
    config: str,
    to_run: Sequence[Job],
    folder: Path,
    jobs: int,
    gpus: Sequence[str],
    passed_on: Sequence[str],
) -> Iterator[tuple[Job, int, float]]:
    """Yield every job with its exit status and duration when it ends."""
    waiting = list(to_run)
    free = list(gpus) if gpus else [""] * jobs
    running: dict[subprocess.Popen[bytes], tuple[Job, str, float]] = {}
    try:
        while waiting or running:
            while waiting and free:
                job, gpu = waiting.pop(0), free.pop(0)
                workdir = folder / job[0].name
                workdir.mkdir(parents=True, exist_ok=True)
                environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
                with (workdir / LOG_FILE).open("ab") as log:
                    process = subprocess.Popen(
                        command(config, job, folder, passed_on),
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        start_new_session=True,  # a Ctrl-C reaches the cells once, from here
                    )
                running[process] = job, gpu, time.monotonic()
            for process in [p for p in running if p.poll() is not None]:
                job, gpu, begin = running.pop(process)
                free.append(gpu)
                yield job, process.returncode, time.monotonic() - begin
            time.sleep(0.1)
    finally:  # the cells save their state, the next call continues them
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _result(workdir: Path) -> str:
    summary = read_summary(workdir)
    network = next(n for n in summary["networks"] if n["name"] == summary["result"])
    scores = network.get("test") or network.get("validation")
    return f"{summary['result']}, accuracy {scores['accuracy']:.2%}" if scores else "finished"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string(
        "config", str(CONFIGS / "digits.py"), "Config file, with an argument for all cells."
    )
    flags.DEFINE_string("grid", None, "Axes: name=value,value;name=value,...", required=True)
    flags.DEFINE_string("folder", "runs/sweep", "Folder of the sweep, one folder a cell.")
    flags.DEFINE_integer("jobs", 1, "Processes at the same time.", lower_bound=1)
    flags.DEFINE_bool("together", False, "Train the seeds of a cell in one process.")
    flags.DEFINE_list("gpus", [], "GPUs to deal the processes to, one each, such as 0,1,2,3.")


def main(passed_on: list[str]) -> None:
    """Run the sweep; what follows `--` are further flags of `experiments.main`."""
    given = flags.FLAGS
    cells = parse_grid(given.grid)
    if given.together and SEED not in dict(cells[0].words):
        raise ConfigError(f"--together needs an axis {SEED!r} in --grid")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed = run_sweep(
        given.config,
        cells,
        Path(given.folder),
        jobs=given.jobs,
        gpus=given.gpus,
        passed_on=passed_on,
        together=given.together,
    )
    if failed:
        names = "; ".join(cell.name for cell in failed)
        raise RunError(f"{len(failed)} of {len(cells)} cells failed: {names}")


if __name__ == "__main__":
    run_command(define_flags, main, arguments=True)
