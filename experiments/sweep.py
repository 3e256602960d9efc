r"""Run a grid of experiments: what is finished is skipped, what was interrupted continues.

    python -m experiments.sweep --config=experiments/configs/digits.py \
        --grid='method=set,rigl;sparsity=0.8,0.9;sup=true,false;seed=0,1,2' --folder=runs/study

The axes are words of the config's argument (`experiments.configs.common.SHORT_NAMES`). Every run
is one call of `experiments.main` in its own folder; with `--together`, runs that differ only in
their seed are one call of `experiments.seeds`, which leaves the same folders. What a run prints is
in its `log.txt`. A run that fails is reported and does not stop the others; the exit status is
then 1. `--dry_run` prints the calls instead. Ctrl-C, SIGTERM and SIGHUP stop the runs after they
have saved; so does any other end of this command, as its runs notice.
"""

import datetime
import itertools
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from experiments.command_line import CONFIGS, run_command
from experiments.configs.common import SHORT_NAMES
from experiments.errors import ConfigError, RunError
from experiments.paths import local_path
from experiments.records.folder import SEED_PLACE, RunFolder
from experiments.records.summary import is_finished, read_summary
from experiments.saying import say
from experiments.stopping import StopSignals
from experiments.study.children import Child, Children, open_log
from supjax.checks import KNOWN, some

SEED = "seed"

POLL_SECONDS = 0.1


class SweepRun(NamedTuple):
    """One run of a sweep: the words it adds to the config's argument."""

    words: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Folder name, such as `method=rigl,seed=0`."""
        return ",".join(f"{name}={value}" for name, value in self.words)

    @property
    def without_seed(self) -> "SweepRun":
        """What a run has in common with those that differ in their seed alone."""
        return SweepRun(tuple((name, value) for name, value in self.words if name != SEED))


Job = tuple[SweepRun, ...]
"""Runs of one process: one, or several that differ in their seed alone."""


class SweepStoppedError(RunError):
    """A signal stopped the sweep after its runs had saved; the same command continues it."""

    title = "stopped"

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name}; the same command continues")
        self.exit_code = 128 + number


def group_seeds(runs: Sequence[SweepRun]) -> list[Job]:
    """Return the runs in groups that differ in their seed alone.

    >>> [len(job) for job in group_seeds(parse_grid("seed=0,1;method=set,rigl,granet"))]
    [2, 2, 2]
    """
    groups: dict[SweepRun, list[SweepRun]] = {}
    for run in runs:
        groups.setdefault(run.without_seed, []).append(run)
    return [tuple(group) for group in groups.values()]


def parse_grid(text: str) -> list[SweepRun]:
    """Return the runs of a grid, the last axis running fastest.

    Raises:
      ConfigError: if the text is no grid, or an axis is unknown or named twice.

    >>> [run.name for run in parse_grid("method=set,rigl;seed=0,1")]
    ['method=set,seed=0', 'method=set,seed=1', 'method=rigl,seed=0', 'method=rigl,seed=1']
    """
    axes: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, values = part.partition("=")
        chosen = [value.strip() for value in values.split(",") if value.strip()]
        if not equals or not chosen:
            raise ConfigError(f"an axis of the grid is name=value,value; got {part!r}")
        if name not in SHORT_NAMES:
            raise ConfigError(f"unknown axis {name!r}; known: {some(sorted(SHORT_NAMES), KNOWN)}")
        if name in axes:
            raise ConfigError(f"axis {name!r} is named twice")
        if SHORT_NAMES[name] == "sup_tickets.start_from":  # would be part of a folder's name
            raise ConfigError(
                f"axis {name!r} holds paths: give all runs one, after --, as "
                "--config.sup_tickets.start_from=PATH, with {seed} in the place of the seed"
            )
        if len(set(chosen)) < len(chosen):
            raise ConfigError(f"axis {name!r} has a value twice, got {values}")
        axes[name] = chosen
    if not axes:
        raise ConfigError("the grid is empty")
    return [
        SweepRun(tuple(zip(axes, values, strict=True)))
        for values in itertools.product(*axes.values())
    ]


def command(config: str, job: Job, folder: Path, passed_on: Sequence[str]) -> list[str]:
    """Return the command of one run, or of several seeds together.

    >>> job = parse_grid("method=set;seed=0")
    >>> command("digits.py:epochs=9", job, Path("runs"), [])[2:]
    ['experiments.main', '--config=digits.py:epochs=9,method=set,seed=0',
     '--workdir=runs/method=set,seed=0']
    """
    file, _, argument = config.partition(":")
    run, several = job[0], len(job) > 1
    words = run.without_seed if several else run
    config = f"{file}:{','.join(filter(None, [argument, words.name]))}"
    if not several:
        chosen = ["experiments.main", f"--config={config}", f"--workdir={folder / run.name}"]
        return [sys.executable, "-m", *chosen, *passed_on]
    seeds = ",".join(dict(each.words)[SEED] for each in job)
    place = tuple((name, SEED_PLACE if name == SEED else value) for name, value in run.words)
    chosen = ["experiments.seeds", f"--config={config}", f"--seeds={seeds}"]
    workdir = folder / SweepRun(place).name
    return [sys.executable, "-m", *chosen, f"--workdir={workdir}", *passed_on]


class Sweep:
    """The state of a sweep: which runs are through, which are going, which are left.

    Args:
      config: config file, with an argument for all runs.
      runs: see `parse_grid`.
      folder: folder of the sweep.
      passed_on: further flags of `experiments.main`.
      together: whether runs that differ in their seed alone share a process.
    """

    def __init__(
        self,
        config: str,
        runs: Sequence[SweepRun],
        folder: Path,
        *,
        passed_on: Sequence[str] = (),
        together: bool = False,
    ) -> None:
        self.config, self.runs, self.folder, self.passed_on = config, runs, folder, passed_on
        to_go = [run for run in runs if not self.finished(run)]
        self.before = len(runs) - len(to_go)
        self.waiting = group_seeds(to_go) if together else [(run,) for run in to_go]
        self.going: dict[Child, tuple[Job, str, float]] = {}
        self.failed: list[SweepRun] = []
        self.busy: list[SweepRun] = []
        self._begin = time.monotonic()
        self._ended = 0

    def commands(self) -> list[list[str]]:
        """Return the commands of what is left."""
        return [command(self.config, job, self.folder, self.passed_on) for job in self.waiting]

    def run(self, *, jobs: int, gpus: Sequence[str] = ()) -> None:
        """Run what is left.

        Args:
          jobs: processes at the same time.
          gpus: GPUs that the processes are dealt to; empty leaves the choice to JAX.

        Raises:
          SweepStoppedError: after a signal, when the runs have saved and stopped.
        """
        free = list(gpus) or [""] * jobs
        to_go = len(self.runs) - self.before
        say(f"{count(len(self.runs), 'run')}, {self.before} finished before, {to_go} to go")
        with StopSignals() as signals:
            with Children() as children:
                while (self.waiting or self.going) and not signals.received:
                    while self.waiting and free:
                        gpu = free.pop(0)
                        if not self._start(children, self.waiting.pop(0), gpu):
                            free.append(gpu)
                    for child in children.take_ended():
                        free.append(self._end(child))
                    time.sleep(POLL_SECONDS)
                if signals.received and self.going:
                    say(f"stopping {count(len(self.going), 'process', 'processes')} after saving")
            if signals.received:
                raise SweepStoppedError(signals.received)

    def finished(self, run: SweepRun) -> bool:
        """Say whether a run is finished, by this process or any other."""
        return is_finished(self.folder / run.name)

    def progress(self) -> str:
        """Return how many runs are through, and the time, as one line."""
        going = sum(len(job) for job, _, _ in self.going.values())
        left = sum(map(len, self.waiting))
        counts = {
            "finished": self.before + self._ended - len(self.failed),
            "failed": len(self.failed),
            "in use": len(self.busy),
            "running": going,
            "left": left,
        }
        shown = [f"{n} {what}" for what, n in counts.items() if n or what in ("finished", "left")]
        seconds = time.monotonic() - self._begin
        line = f"{', '.join(shown)} of {len(self.runs)}; {duration(seconds)} so far"
        if self._ended and going + left:
            line += f", about {duration(seconds / self._ended * (going + left))} to go"
        return line

    def table(self) -> str:
        """Return what is finished, as lines of text."""
        rows = [("run", "result", "accuracy", "time")]
        for run in filter(self.finished, self.runs):
            name, accuracy, seconds = self._result(run)
            rows.append((run.name, name, accuracy, duration(seconds)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
            for a, b, c, d in rows
        )

    def _start(self, children: Children, job: Job, gpu: str) -> bool:
        """Start what is to do of a job; return whether anything was."""
        logs, free = [], []
        for run in job:
            log = open_log(RunFolder(self.folder / run.name).log_file)
            if log is None:
                self.busy.append(run)
                say(f"{run.name}: in use by another process")
            elif self.finished(run):  # by another sweep, since this one began
                log.close()
                self.before += 1
            else:
                logs.append(log)
                free.append(run)
        if not free:
            return False
        chosen = command(self.config, tuple(free), self.folder, self.passed_on)
        environment = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        child = children.start(chosen, logs, environment)
        self.going[child] = tuple(free), gpu, time.monotonic()
        more = f" and {len(free) - 1} more" if len(free) > 1 else ""
        say(
            f"started {free[0].name}{more}, log in {RunFolder(self.folder / free[0].name).log_file}"
        )
        return True

    def _end(self, child: Child) -> str:
        """Tell what has become of the runs of a process; return its GPU."""
        job, gpu, begin = self.going.pop(child)
        seconds = time.monotonic() - begin
        for run in job:
            self._ended += 1
            if self.finished(run):
                name, accuracy, _ = self._result(run)
                text = f"{name}, accuracy {accuracy}, in {duration(seconds)}"
            else:
                self.failed.append(run)
                text = f"failed with status {child.process.returncode}: {child.last_line()}"
            say(f"{run.name}: {text}")
        say(f"  {self.progress()}")
        return gpu

    def _result(self, run: SweepRun) -> tuple[str, str, float | None]:
        """Return name and accuracy of a run's result, and the seconds it took."""
        summary = read_summary(self.folder / run.name)
        network = next(n for n in summary["networks"] if n["name"] == summary["result"])
        scores = network.get("test") or network.get("validation")
        accuracy = f"{100 * scores['accuracy']:.2f} %" if scores else "-"
        return summary["result"], accuracy, summary.get("wall_seconds")


def count(number: int, one: str, several: str = "") -> str:
    """Return a number and its noun.

    >>> count(1, "run"), count(2, "run")
    ('1 run', '2 runs')
    """
    return f"{number} {one if number == 1 else several or one + 's'}"


def duration(seconds: float | None) -> str:
    """Return a time as hours, minutes and seconds.

    >>> duration(3725.4)
    '1:02:05'
    """
    return "-" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string(
        "config", str(CONFIGS / "digits.py"), "Config file, with an argument for all runs."
    )
    flags.DEFINE_string("grid", None, "Axes: name=value,value;name=value,...", required=True)
    flags.DEFINE_string("folder", "runs/sweep", "Folder of the sweep, one folder a run.")
    flags.DEFINE_integer("jobs", 1, "Processes at the same time.", lower_bound=1)
    flags.DEFINE_bool("together", False, "Train runs that differ in their seed in one process.")
    flags.DEFINE_list("gpus", [], "GPUs to deal the processes to, one each, such as 0,1,2,3.")
    flags.DEFINE_bool("dry_run", False, "Print the commands of what is left, and run nothing.")


def main(passed_on: list[str]) -> None:
    """Run the sweep; what follows `--` are further flags of `experiments.main`.

    Raises:
      RunError: if a run failed or is in use by another process, once all others are through.
    """
    given = flags.FLAGS
    runs = parse_grid(given.grid)
    if given.together and SEED not in dict(runs[0].words):
        raise ConfigError(f"--together needs an axis {SEED!r} in --grid")
    folder = local_path(given.folder, "--folder")
    sweep = Sweep(given.config, runs, folder, passed_on=passed_on, together=given.together)
    if given.dry_run:
        for words in sweep.commands():
            say(shlex.join(words))
        return
    try:
        sweep.run(jobs=given.jobs, gpus=given.gpus)
    finally:
        if any(map(sweep.finished, runs)):
            say(sweep.table())
    left = [run for run in runs if not sweep.finished(run)]
    if left:
        why = dict.fromkeys(sweep.busy, "in use by another process")
        names = [f"{run.name} ({why.get(run, 'failed')})" for run in left]
        raise RunError(f"{len(left)} of {len(runs)} runs are not finished: {some(names)}")


if __name__ == "__main__":
    run_command(define_flags, main, arguments=True)
