"""The commands of the fault drill: how each is started, watched, ended and compared."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.records.folder import RunFolder
from experiments.records.metrics import read_metrics
from tests.experiments.main_job.fault_drill import (
    FULL,
    Disk,
    End,
    file_hashes,
    fingerprints,
    saved_steps,
)
from tests.helpers.forked import Forked, prepare_forks

LONGEST_WAIT = 0.02
"""Seconds up to which an end is delayed, so that it meets a file in any state."""

LEAST_FREE, MOST_FREE = 4096, 60_000
"""Bytes that are left on a disk that fills up."""

POLL_SECONDS = 0.003
PATIENCE_SECONDS = 600.0

FLAGS = [
    f"--config.{name}={value}"
    for name, value in {
        "model.name": "lenet_300_100",
        "model.width": 0.1,
        "batch_size": 152,
        "epochs": 8,
        "topology.update_every": 5,
        "topology.ramp_epochs": (0, 2),
        "sup_tickets.cycle_fraction": 0.5,
        "sup_tickets.cycle_epochs": 1,
        "runtime.devices": 1,
        "runtime.checkpoint_every_steps": 4,
        "runtime.tensorboard": False,
    }.items()
]
CONFIG = "--config=experiments/configs/digits.py"
PLAIN = "--config.runtime.plots=False"


class Command:
    """A command that trains: `experiments.main`.

    Args:
      undisturbed: folder for what nobody disturbs.
      disk: for what is ended again and again.
      log: file for the output.
    """

    module = "experiments.main"
    folders = ("main",)

    def __init__(self, undisturbed: Path, disk: Disk, log: Path) -> None:
        prepare_forks()
        self.undisturbed, self.disk, self.disturbed, self.log = (
            undisturbed,
            disk,
            disk.folder,
            log,
        )
        self.cache = f"--config.runtime.compilation_cache={log.parent.absolute() / 'xla'}"
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # of the forks
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # of a sweep's cells
        self.total_steps = 0
        self.seconds = dict.fromkeys(("start", "finish", "plots", "share"), 0.0)

    def arguments(self, root: Path) -> list[str]:
        """Return the words of the command for one root folder."""
        return [CONFIG, f"--workdir={root / self.folders[0]}", self.cache, *FLAGS]

    def watched(self, root: Path) -> RunFolder:
        """Return the run folder that shows how far the command is."""
        return RunFolder(root / self.folders[0])

    def contents(self, root: Path) -> dict[str, str]:
        """Return hashes of all that is compared."""
        return {
            f"{name}/{part}": digest
            for name in self.folders
            for part, digest in fingerprints(root / name).items()
        }

    def start(self, root: Path) -> Forked:
        """Start the command for one root folder."""
        self.log.unlink(missing_ok=True)
        return Forked(self.module, self.arguments(root), self.log)

    def run_undisturbed(self) -> int:
        """Run to the end and take the times; return the number of training steps."""
        self.undisturbed.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        child = self.start(self.undisturbed)
        folder = self.watched(self.undisturbed)
        for _ in polls(lambda: child.poll() is not None or read_metrics(folder.path)):
            pass
        self.seconds["start"] = time.monotonic() - begin
        self.wait(child)
        ended = time.time()
        self.total_steps = max(saved_steps(folder.path), default=0)
        trained = folder.checkpoints / str(self.total_steps)
        written = folder.summary_file.stat().st_mtime
        self.seconds["finish"] = written - trained.stat().st_mtime
        self.seconds["plots"] = ended - written
        return self.total_steps

    def end(self, end: End) -> bool:
        """Start the command and end it; return whether that met it alive."""
        before = self.marks()
        child = self.start(self.disturbed)
        self.await_moment(child, end, before)
        if end.how == FULL:
            self.disk.leave(LEAST_FREE + int(end.share * MOST_FREE))
            for _ in polls(lambda: child.poll() is not None):
                pass
            self.disk.leave(None)
        else:
            self.strike(child, end)
            for _ in polls(lambda: child.poll() is not None):
                pass
        self.settle()
        self.check_log(child)
        if child.returncode == 0:
            return False
        if not end.allows(child.returncode):
            raise SystemExit(f"{end} ended with {child.returncode}: {self.log.read_text()}")
        return True

    def strike(self, child: Forked, end: End) -> None:
        """Send the signals."""
        for name in end.how:
            child.send(signal.Signals[name])
            time.sleep(LONGEST_WAIT)

    def settle(self) -> None:
        """Wait for what may go on after the command itself has ended."""

    def finish(self) -> tuple[dict[str, str], dict[str, str]]:
        """Run the disturbed command to its end; return both contents."""
        self.wait(self.start(self.disturbed))
        return self.contents(self.undisturbed), self.contents(self.disturbed)

    def marks(self) -> tuple[int, int]:
        """Return what tells files of this child from those of an earlier one."""
        folder = self.watched(self.disturbed)
        metrics, summary = folder.metrics_file, folder.summary_file
        return (
            metrics.stat().st_ino if metrics.exists() else 0,
            summary.stat().st_mtime_ns if summary.exists() else 0,
        )

    def await_moment(self, child: Forked, end: End, before: tuple[int, int]) -> None:
        """Wait until the child has come so far."""
        if end.moment in ("start", "share"):
            self.sleep(child, end.share * self.seconds[end.moment])
            return
        for _ in polls(lambda: child.poll() is not None):
            folder, marks = self.watched(self.disturbed), self.marks()
            rows = read_metrics(folder.path) if marks[0] not in (0, before[0]) else []
            if end.moment == "plots":
                reached = marks[1] != before[1]
            elif end.moment == "finish":
                reached = bool(rows) and self.total_steps in saved_steps(folder.path)
            else:
                reached = bool(rows) and rows[-1]["step"] >= end.step
            if reached:
                break
        if end.moment in ("save", "ticket"):
            place = folder.checkpoints if end.moment == "save" else folder.tickets
            known = names(place)
            for _ in polls(lambda: child.poll() is not None):
                if any("tmp" in name for name in names(place) - known):
                    break
        self.sleep(child, end.share * self.seconds.get(end.moment, LONGEST_WAIT))

    def sleep(self, child: Forked, seconds: float) -> None:
        """Wait, but not beyond the child's end."""
        until = time.monotonic() + seconds
        for _ in polls(lambda: child.poll() is not None or time.monotonic() > until):
            pass

    def wait(self, child: Forked) -> None:
        """Wait for an end without a fault."""
        for _ in polls(lambda: child.poll() is not None):
            pass
        self.check_log(child)
        if child.returncode:
            raise SystemExit(f"status {child.returncode}: {self.log.read_text()}")

    def check_log(self, child: Forked) -> None:
        """No end leaves a traceback, and a signal one line at most."""
        told = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        if "Traceback" in told or told.count("stopped: SIG") > 1:
            raise SystemExit(f"status {child.returncode}: {told}")


class Seeds(Command):
    """`experiments.seeds`."""

    module = "experiments.seeds"
    folders = ("seed=1", "seed=2")

    def arguments(self, root: Path) -> list[str]:
        """Return the words of the command for one root folder."""
        workdir = f"--workdir={root}/seed={{seed}}"
        return [CONFIG, "--seeds=1,2", workdir, self.cache, *FLAGS, PLAIN]


class Sweep(Command):
    """`experiments.sweep`, whose cells are processes of their own."""

    module = "experiments.sweep"
    folders = ("cells/seed=5", "cells/seed=6")

    def arguments(self, root: Path) -> list[str]:
        """Return the words of the command for one root folder."""
        grid = ["--grid=seed=5,6", f"--folder={root / 'cells'}"]
        return [CONFIG, *grid, "--", self.cache, *FLAGS, PLAIN]

    def watched(self, root: Path) -> RunFolder:
        """Return the first cell that is not finished, else the last."""
        cells = [RunFolder(root / name) for name in self.folders]
        return next((cell for cell in cells if not cell.summary_file.exists()), cells[-1])

    def strike(self, child: Forked, end: End) -> None:
        """Send the signals to the sweep or to its cell."""
        self.cells = child.children()
        if end.how[0] in signal.Signals.__members__:
            super().strike(child, end)
        elif self.cells:
            os.kill(self.cells[0], signal.SIGKILL)
            for _ in polls(lambda: child.poll() is not None):
                pass

    def settle(self) -> None:
        """Wait for the cells of a sweep that was killed: they save and stop."""
        for pid in self.cells:
            for _ in polls(lambda pid=pid: not is_alive(pid)):
                pass


class PrepareData(Command):
    """`experiments.prepare_data` with a local copy."""

    module = "experiments.prepare_data"
    folders = ("tiny",)

    def arguments(self, root: Path) -> list[str]:
        """Return the words of the command for one root folder."""
        return ["--dataset=tiny", f"--data_dir={root}", f"--from={self.log.parent / 'set.npz'}"]

    def run_undisturbed(self) -> int:
        """Run to the end and take the time; there are no training steps."""
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (4000, 12, 12, 3)).astype(np.uint8)
        labels = np.arange(4000) % 5
        content = {"train_images": images, "train_labels": labels}
        np.savez(
            self.log.parent / "set.npz", **content, test_images=images[:9], test_labels=labels[:9]
        )
        self.undisturbed.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        self.wait(self.start(self.undisturbed))
        self.seconds["share"] = time.monotonic() - begin
        return 1

    def end(self, end: End) -> bool:
        """End the preparation; a set that is there nevertheless is whole."""
        alive = super().end(end)
        for whole in (self.disturbed / "tiny").glob("[0-9]*"):
            if file_hashes(whole) != file_hashes(self.undisturbed / "tiny" / whole.name):
                raise SystemExit(f"{whole} is not whole after {end}")
            shutil.rmtree(whole)
        return alive

    def contents(self, root: Path) -> dict[str, str]:
        """Return hashes of the prepared set."""
        return file_hashes(root / "tiny")


COMMANDS: dict[str, Callable[[Path, Disk, Path], Command]] = {
    "main": Command,
    "seeds": Seeds,
    "sweep": Sweep,
    "prepare_data": PrepareData,
}


def names(folder: Path) -> set[str]:
    """Return the names in a folder, if there is one."""
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def is_alive(pid: int) -> bool:
    """Say whether a process still runs; one that nobody has asked about its end does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def polls(done: Callable[[], Any]) -> Iterator[None]:
    """Yield every few milliseconds until something is the case."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        if time.monotonic() > end:
            raise TimeoutError("the command has come to a standstill")
        yield
        time.sleep(POLL_SECONDS)
