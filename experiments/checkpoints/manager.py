"""Checkpoints of a run, on orbax: written in one piece, verified when read, never lost silently."""

import contextlib
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from experiments.checkpoints.format import MismatchError, pack, unpack
from experiments.checkpoints.npz_handler import NpzHandler, NpzRestore, NpzSave
from experiments.errors import CheckpointError, reason
from experiments.paths import remove
from experiments.records.folder import RunFolder
from supjax.checks import some
from supjax.types import PyTree


class Checkpoints:
    """The folder `checkpoints/` of a run, one folder in it for every saved step.

    A save that was killed leaves only a temporary folder behind, which is ignored and later
    removed. A checkpoint that cannot be used is renamed to `<step>.damaged`, never deleted.

    Args:
      workdir: folder of the run.
      keep: how many of the newest checkpoints stay.
      primary: whether this process writes. In a run of several hosts one does; the others only
        read, from the same file system.

    Raises:
      CheckpointError: if the folder cannot be made.
      ValueError: if `keep` is below 1.
    """

    def __init__(self, workdir: str | Path, *, keep: int = 3, primary: bool = True) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._folder = RunFolder(Path(workdir).absolute()).checkpoints
        self._keep = keep
        self._primary = primary
        logging.getLogger("absl").addFilter(_is_worth_showing)
        # Only one process writes, so none has to wait for another.
        this = jax.process_index()
        self._checkpointer = ocp.Checkpointer(
            NpzHandler(),
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=this, active_processes={this}
            ),
        )
        if primary:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CheckpointError(f"cannot write to {self._folder}: {reason(error)}") from error
            self._tidy()

    def steps(self) -> list[int]:
        """Return the steps of the finished checkpoints, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in self._folder.iterdir() if _is_step(entry))

    def save(self, step: int, state: PyTree, info: dict[str, Any]) -> None:
        """Write a checkpoint; it is complete on disk when this returns.

        An older checkpoint of the same step is replaced, and only once the new one is complete; so
        are those beyond `keep`. Does nothing in a process that only reads.

        Args:
          step: its name.
          state: what to save; arrays may live on several devices.
          info: small, what JSON can hold; comes back from `restore_latest`.

        Raises:
          CheckpointError: if it cannot be written; all older checkpoints are then as they were.
        """
        if not self._primary:
            return
        arrays = pack(state, step, info)
        target = self._folder / str(step)
        failure = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                target.rename(self._aside(step, "replaced"))
            self._checkpointer.save(target, args=NpzSave(arrays))
        except Exception as error:
            failure = error
        finally:
            self._tidy()
        if failure is not None:
            raise CheckpointError(self._explain(step, failure)) from failure
        for old in self.steps()[: -self._keep]:
            if old != step:
                remove(self._folder / str(old))

    def restore_latest(self, template: PyTree) -> tuple[PyTree, dict[str, Any], list[str]] | None:
        """Read the newest checkpoint that is whole.

        Args:
          template: a state of arrays or `jax.ShapeDtypeStruct`s, with all of its fields.

        Returns:
          `(state, info, reports)`, a report being one line about a newer checkpoint that was
          skipped; None if nothing has been saved yet.

        Raises:
          CheckpointError: if there are checkpoints, but none is whole and of this kind of state; or
            something else has a number for its name, such as a file, a dangling link or `007`.
        """
        if odd := self._odd_steps():
            raise CheckpointError(
                f"no folder of a step in {self._folder}: {some(odd)}; move it away"
            )
        skipped: dict[int, Exception] = {}
        for step in reversed(self.steps()):
            try:
                state, info = self._load(step, template)
            except Exception as error:  # whatever a damaged file makes orbax raise
                skipped[step] = error
                continue
            for bad in skipped if self._primary else ():
                self._set_aside(bad)
            return state, info, [_skip_line(bad, why) for bad, why in skipped.items()]
        if not skipped:
            return None
        mismatch = [step for step, why in skipped.items() if isinstance(why, MismatchError)]
        worst = mismatch[0] if mismatch else next(iter(skipped))
        raise CheckpointError(
            f"no checkpoint in {self._folder} can be used; step {worst}: {reason(skipped[worst])} "
            "(move the folder away to start anew)"
        )

    def close(self) -> None:
        """Let go of orbax's resources."""
        self._checkpointer.close()

    def _load(self, step: int, template: PyTree) -> tuple[PyTree, dict[str, Any]]:
        arrays = self._checkpointer.restore(self._folder / str(step), args=NpzRestore())
        state, saved_step, info = unpack(arrays, template)
        if saved_step != step:
            raise ValueError(f"it holds step {saved_step}")
        return state, info

    def _odd_steps(self) -> list[str]:
        """Return what a person may take for a checkpoint and is none, with the reason."""
        entries = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        return [
            f"{entry.name} ({_kind(entry)})"
            for entry in entries
            if entry.name.isdigit() and not _is_step(entry)
        ]

    def _aside(self, step: int, why: str) -> Path:
        return self._folder / f"{step}.{why}"

    def _set_aside(self, step: int) -> None:
        target = self._aside(step, "damaged")
        remove(target)
        with contextlib.suppress(OSError):
            (self._folder / str(step)).rename(target)

    def _tidy(self) -> None:
        """Clear up after a save that may not have come to its end."""
        for entry in list(self._folder.iterdir()) if self._folder.is_dir() else ():
            step, _, kind = entry.name.partition(".")
            if not step.isdecimal():
                continue
            if kind == "replaced" and not (self._folder / step).exists():
                with contextlib.suppress(OSError):
                    entry.rename(self._folder / step)
            elif kind == "replaced" or kind.startswith("orbax-checkpoint-tmp"):
                remove(entry)

    def _explain(self, step: int, error: Exception) -> str:
        """Say in one line what went wrong with a save and what is left."""
        steps = self.steps()
        left = f"the checkpoint of step {steps[-1]} is intact" if steps else "no older checkpoint"
        space = ""
        with contextlib.suppress(OSError):
            space = f", {shutil.disk_usage(self._folder).free / 2**20:.1f} MiB free"
        return f"cannot save step {step} in {self._folder}: {reason(error)}{space}; {left}"


def _is_step(entry: Path) -> bool:
    return re.fullmatch(r"0|[1-9][0-9]*", entry.name) is not None and entry.is_dir()


def _kind(entry: Path) -> str:
    """Say in words what lies under a name."""
    if entry.is_symlink() and not entry.exists():
        return "a dangling link"
    return "a folder of another name" if entry.is_dir() else "a file"


def _is_worth_showing(record: logging.LogRecord) -> bool:
    """Say whether a log record is more than an account of what orbax does."""
    return record.levelno >= logging.WARNING or "orbax" not in record.pathname


def _skip_line(step: int, why: Exception) -> str:
    return f"skipped the checkpoint of step {step}: {reason(why)}"
