"""What a run writes while it trains, for every seed into its own folder."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import jax
from ml_collections import ConfigDict

from experiments.checkpoints.manager import Checkpoints
from experiments.errors import OutOfStepError
from experiments.records.folder import RunFolder
from experiments.records.metrics import MetricWriter
from experiments.records.progress import Progress
from supjax.ticket_io import save_ticket
from supjax.types import PyTree, Ticket


class Recorder:
    """The folders of the seeds that train together: locked, and open for writing.

    Only the first process of a run writes; the others read checkpoints from the same file system.

    Attributes:
      folders: one a seed.
      primary: whether this process writes.
      progress: the bar, from `follow` on.
    """

    progress: Progress

    def __init__(self, folders: Sequence[RunFolder], runtime: ConfigDict) -> None:
        """Tie the folders to their configs and lock them.

        Raises:
          CheckpointError: if a folder belongs to another config, or cannot be read or written.
          RunError: if another process uses one.
        """
        self.folders = folders
        self.primary = jax.process_index() == 0
        self._runtime = runtime
        self._writers: list[MetricWriter] = []
        self._saved_step, self._saved_at = 0, time.monotonic()
        with ExitStack() as stack:  # given back if anything below fails
            for folder in folders if self.primary else ():
                folder.tie()
                stack.enter_context(folder.locked())
                folder.clear_unfinished()
            keep = runtime.keep_checkpoints
            self._checkpoints = [
                Checkpoints(folder.path, keep=keep, primary=self.primary) for folder in folders
            ]
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def label(self, index: int) -> str:
        """Return how a line about one of several seeds begins; empty for a single one."""
        return f"seed {self.folders[index].config.seed}: " if len(self.folders) > 1 else ""

    def restore(self, template: PyTree) -> tuple[list[Any], dict[str, Any], list[str]] | None:
        """Read every seed's newest usable checkpoint.

        Args:
          template: a state of one seed, with all of its fields.

        Returns:
          The states of the seeds, what was saved beside them, and lines for the console; None if
          no seed has been saved yet.

        Raises:
          CheckpointError: if a seed has checkpoints, but none that can be used.
          OutOfStepError: if the seeds' newest usable checkpoints are not of the same step.
        """
        found = [each.restore_latest(template) for each in self._checkpoints]
        restored = [each for each in found if each is not None]
        if not restored:
            return None
        states, infos, notes = zip(*restored, strict=True)
        if len({info["step"] for info in infos}) > 1 or len(restored) < len(found):
            raise OutOfStepError(tuple(folder.config.seed for folder in self.folders))
        lines = [f"{self.label(i)}{note}" for i, own in enumerate(notes) for note in own]
        return list(states), infos[0], lines

    def follow(
        self, progress: Progress, step: int, lines: Sequence[str], *, anew: bool = False
    ) -> None:
        """Open the metrics files and show the bar, from `step` steps on.

        Args:
          progress: the bar.
          step: training steps done.
          lines: for the console.
          anew: whether what was written about this very step is written again, as no checkpoint
            says that it is complete.
        """
        self.progress = progress
        self._saved_step = step
        for line in lines:
            progress.log(line)
        for folder in self.folders if self.primary else ():
            tensorboard = self._runtime.tensorboard
            done = step - 1 if anew else step
            writer = MetricWriter(folder.path, resume_step=done, tensorboard=tensorboard)
            self._stack.callback(writer.close)
            self._writers.append(writer)

    def write(self, step: int, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one line of metrics of every seed."""
        for writer, row in zip(self._writers, rows, strict=False):
            writer.write(step, kind, row)

    def keep(
        self,
        step: int,
        name: str,
        kind: str,
        tickets: Sequence[Ticket],
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        """Save a network of every seed with its scores, and say so.

        Args:
          step: training steps done.
          name: of its file.
          kind: what it is, in the metrics.
          tickets: one a seed, on the host.
          rows: its density, and scores on the validation split if there is one.
        """
        for index, (folder, ticket, row) in enumerate(
            zip(self.folders, tickets, rows, strict=True)
        ):
            if self.primary:
                folder.tickets.mkdir(parents=True, exist_ok=True)
                metadata = {"name": name, "step": step, "config": folder.config.to_dict(), **row}
                save_ticket(folder.ticket_file(name), ticket, metadata)
            line = f"{self.label(index)}{name.replace('_', ' ')}: density {row['density']:.4f}"
            if "accuracy" in row:
                line += f", validation accuracy {100 * row['accuracy']:.2f} %"
            self.progress.log(line)
        self.write(step, kind, rows)

    def save(self, step: int, states: Sequence[PyTree], info: Mapping[str, Any]) -> None:
        """Write a checkpoint of every seed."""
        for checkpoints, state in zip(self._checkpoints, states, strict=True):
            checkpoints.save(step, state, {"step": step, **info})
        self._saved_step, self._saved_at = step, time.monotonic()

    def saved(self, step: int) -> bool:
        """Say whether every seed has a checkpoint of a step."""
        return all(step in checkpoints.steps() for checkpoints in self._checkpoints)

    def newest(self, index: int) -> int | None:
        """Return the step of one seed's newest checkpoint, if there is one."""
        steps = self._checkpoints[index].steps()
        return steps[-1] if steps else None

    def save_due(self, step: int) -> bool:
        """Say whether it is time for a checkpoint, by the clock or by the count of steps."""
        minutes = (time.monotonic() - self._saved_at) / 60
        left = self.steps_to_save(step)
        return minutes >= self._runtime.checkpoint_every_minutes or (left is not None and left <= 0)

    def steps_to_save(self, step: int) -> int | None:
        """Return after how many steps a checkpoint is due by their count; None for never."""
        every = self._runtime.checkpoint_every_steps
        return self._saved_step + every - step if every else None
