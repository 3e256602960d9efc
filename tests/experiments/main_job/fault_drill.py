r"""Kill the main command at random moments, and compare its end with that of an undisturbed run.

    python -m tests.experiments.main_job.fault_drill [--kills=20] [--toy] [--seed=0] [--output FILE]

A run of the digits is started as a child process and killed (SIGKILL) again and again: half of the
times while a checkpoint is being written, otherwise at a training step, while a ticket is being
written, during the start, and in the final report. The same command continues it every time. In
the end its result, tickets, last training state and metrics are compared, byte for byte, with
those of a run that nobody disturbed. About 6 minutes on 2 CPU cores; `--toy` is a smaller run.
"""

import argparse
import hashlib
import itertools
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import print_table, write_json
from experiments.records.folder import RunFolder
from experiments.records.metrics import read_metrics
from experiments.records.summary import read_summary

OTHER_MOMENTS = {"early": ("step", "start"), "late": ("ticket", "step", "start")}
"""What the other half of the kills waits for; the first tickets come half-way through the run."""

TIMES = ("images_per_second", "wall_seconds")
LONGEST_WAIT = 0.02
"""Seconds up to which a kill is delayed, so that it meets a file in any state."""

POLL_SECONDS = 0.0005
PATIENCE_SECONDS = 600.0

FLAGS = ("--config.runtime.checkpoint_every_steps=4", "--config.runtime.tensorboard=False")
TOY_FLAGS = (
    "--config.model.width=0.25",
    "--config.batch_size=152",
    "--config.epochs=4",
    "--config.runtime.plots=False",
)


class Kill(NamedTuple):
    """When to kill: `moment` is "step", "save", "ticket", "start" or "report".

    Attributes:
      moment: what has to happen.
      step: only after so many training steps.
      share: random number in [0, 1), how much later.
    """

    moment: str
    step: int
    share: float


class Death(NamedTuple):
    """What a kill hit, and what the next start made of it.

    Attributes:
      moment: see `Kill`.
      phase: of the run.
      step: training steps done, by the last line of metrics.
      left_behind: unfinished files and folders.
      continued: where the next start has gone on.
    """

    moment: str
    phase: str
    step: int
    left_behind: str
    continued: str = "-"


def plan_kills(count: int, total_steps: int, seed: int) -> list[Kill]:
    """Return moments spread over the whole run, the last one in its report.

    >>> [kill.moment for kill in plan_kills(8, 100, seed=0)]
    ['save', 'step', 'save', 'start', 'save', 'ticket', 'save', 'report']
    """
    rng = random.Random(seed)
    others = {half: itertools.cycle(moments) for half, moments in OTHER_MOMENTS.items()}
    kills = []
    for index in range(count):
        half = others["early" if index < count // 2 else "late"]
        moment = "save" if index % 2 == 0 else next(half)
        step = int((index + rng.random()) * total_steps / count)
        kills.append(Kill("report" if index == count - 1 else moment, step, rng.random()))
    return kills


def fingerprints(workdir: Path) -> dict[str, str]:
    """Return hashes of all that a finished run has computed; times are left out."""
    files = [RunFolder(workdir).result_file, *sorted((workdir / "tickets").glob("*.npz"))]
    parts = {str(path.relative_to(workdir)): path.read_bytes() for path in files}
    parts["metrics.jsonl"] = _json([_without_times(row) for row in read_metrics(workdir)])
    parts["summary.json"] = _json(_without_times(read_summary(workdir)))
    newest = max(_saved_steps(workdir))
    with np.load(workdir / "checkpoints" / str(newest) / "state.npz") as archive:
        arrays = dict(archive)
    manifest = json.loads(arrays.pop("manifest").tobytes())
    del manifest["info"]["clock"]
    parts["state"] = _json(manifest)
    parts |= {name: array.tobytes() for name, array in arrays.items()}
    return {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}


class Drill:
    """One command, run undisturbed in one folder and disturbed in another.

    Args:
      folder: for both, emptied first.
      flags: of `experiments.main`.
    """

    def __init__(self, folder: Path, flags: Sequence[str]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._flags = flags
        self.undisturbed, self.disturbed = folder / "undisturbed", folder / "disturbed"
        self._log = folder / "log.txt"
        self._startup_seconds = self._report_seconds = 0.0
        self._total_steps = 0
        self._continued = "-"

    def run_undisturbed(self) -> int:
        """Run to the end; return the number of its training steps."""
        begin = time.monotonic()
        with self._child(self.undisturbed) as child:
            for _ in _polls(lambda: child.poll() is not None or read_metrics(self.undisturbed)):
                pass
            self._startup_seconds = time.monotonic() - begin
            self._wait(child)
        self._total_steps = max(_saved_steps(self.undisturbed))
        trained = self.undisturbed / "checkpoints" / str(self._total_steps)
        summary = RunFolder(self.undisturbed).summary_file
        self._report_seconds = summary.stat().st_mtime - trained.stat().st_mtime
        return self._total_steps

    def kill(self, kill: Kill) -> Death | None:
        """Start the command, and kill it at a moment; None if it had ended before."""
        before = _inode(RunFolder(self.disturbed).metrics_file)
        with self._child(self.disturbed) as child:
            if kill.moment == "start":
                time.sleep(kill.share * self._startup_seconds)
            else:
                self._await_step(child, kill, before)
                self._await_file(child, kill)
                longest = self._report_seconds if kill.moment == "report" else LONGEST_WAIT
                time.sleep(kill.share * longest)
            if child.poll() is not None:
                self._check(child)
                return None
            child.kill()
            child.wait()
        rows = [row for row in read_metrics(self.disturbed) if row["kind"] == "train"]
        step = rows[-1]["step"] if rows else 0
        phase = rows[-1]["phase"] if rows else "normal"
        if kill.moment in ("start", "report"):
            phase = kill.moment
        return Death(kill.moment, phase, step, _left_behind(self.disturbed))

    def finish(self) -> None:
        """Run the disturbed command to its end."""
        with self._child(self.disturbed) as child:
            self._wait(child)

    def how_it_continued(self) -> str:
        """Return what the last child has said about its start, or "-" if it did not come to it."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        told = [line for line in lines if line.startswith(("skipped", "continuing at "))]
        return "; ".join(told).removeprefix("continuing at ") or self._continued

    def _child(self, workdir: Path) -> subprocess.Popen[bytes]:
        self._continued = "-" if _saved_steps(workdir) else "step 0"
        command = [sys.executable, "-m", "experiments.main", f"--workdir={workdir}", *self._flags]
        with open(self._log, "wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def _await_step(self, child: subprocess.Popen[bytes], kill: Kill, before: int) -> None:
        """Wait until the child has come so far; what an earlier child wrote does not count."""
        metrics = RunFolder(self.disturbed).metrics_file
        for _ in _polls(lambda: child.poll() is not None):
            rows = read_metrics(self.disturbed) if _inode(metrics) not in (0, before) else []
            if kill.moment == "report":
                trained = rows and self._total_steps in _saved_steps(self.disturbed)
            else:
                trained = rows and rows[-1]["step"] >= kill.step
            if trained:
                return

    def _await_file(self, child: subprocess.Popen[bytes], kill: Kill) -> None:
        """Wait until a checkpoint or ticket is being written."""
        if kill.moment not in ("save", "ticket"):
            return
        folder = self.disturbed / ("checkpoints" if kill.moment == "save" else "tickets")
        known = set(_names(folder))
        for _ in _polls(lambda: child.poll() is not None):
            if any("tmp" in name for name in _names(folder) - known):
                return

    def _wait(self, child: subprocess.Popen[bytes]) -> None:
        child.wait(PATIENCE_SECONDS)
        self._check(child)

    def _check(self, child: subprocess.Popen[bytes]) -> None:
        if child.returncode:
            raise SystemExit(self._log.read_text(encoding="utf-8"))


def _polls(done: Callable[[], Any]) -> Iterator[None]:
    """Yield every half millisecond until something is the case."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        if time.monotonic() > end:
            raise TimeoutError("the command has come to a standstill")
        yield
        time.sleep(POLL_SECONDS)


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def _saved_steps(workdir: Path) -> list[int]:
    return [int(name) for name in _names(workdir / "checkpoints") if name.isdecimal()]


def _left_behind(workdir: Path) -> str:
    """Return the unfinished files and folders of a killed run."""
    folders = (workdir, workdir / "checkpoints", workdir / "tickets")
    found = [name for folder in folders for name in sorted(_names(folder)) if "tmp" in name]
    return ", ".join(found) or "-"


def _without_times(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in TIMES}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def run_drill(folder: Path, kills: int, seed: int, flags: Sequence[str]) -> dict[str, Any]:
    """Run the whole drill.

    Args:
      folder: for both runs.
      kills: how often the command is killed.
      seed: of the random moments.
      flags: of `experiments.main`.

    Returns:
      `deaths`, one a kill, and `different`, the names of what does not agree in the end.
    """
    drill = Drill(folder, flags)
    print("undisturbed run", file=sys.stderr)
    total_steps = drill.run_undisturbed()
    deaths: list[Death] = []
    for kill in plan_kills(kills, total_steps, seed):
        death = drill.kill(kill)
        if deaths:
            deaths[-1] = deaths[-1]._replace(continued=drill.how_it_continued())
        if death is None:
            print(f"came too late: {kill}", file=sys.stderr)
            continue
        print(f"kill {len(deaths) + 1} of {kills}: {death}", file=sys.stderr)
        deaths.append(death)
    drill.finish()
    deaths[-1] = deaths[-1]._replace(continued=drill.how_it_continued())
    expected, found = fingerprints(drill.undisturbed), fingerprints(drill.disturbed)
    different = [name for name in sorted(expected | found) if expected.get(name) != found.get(name)]
    return {
        "deaths": [death._asdict() for death in deaths],
        "different": different,
        "compared": len(expected),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Drill, print the table, write the JSON file; exit status 1 if the runs differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.main_job.fault_drill")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--toy", action="store_true", help="a smaller run")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--workdir", type=Path, default=Path("runs/fault_drill"))
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/fault_drill.json"))
    parser.add_argument("flags", nargs="*", help="more flags of experiments.main, after --")
    given = parser.parse_args(arguments)
    config = "--config=experiments/configs/digits.py:runlocal"
    flags = [config, *FLAGS, *(TOY_FLAGS if given.toy else ()), *given.flags]
    results = run_drill(given.workdir, given.kills, given.seed, flags)
    print_table(
        ["kill", *(name.replace("_", " ") for name in Death._fields)],
        [
            [str(number), *map(str, death.values())]
            for number, death in enumerate(results["deaths"], 1)
        ],
    )
    different = results["different"]
    verdict = f"different: {', '.join(different)}" if different else "not one bit differs"
    print(f"{results['compared']} files and arrays compared with the undisturbed run: {verdict}")
    write_json(given.output, results)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
