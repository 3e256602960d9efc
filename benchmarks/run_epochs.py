"""Epochs of training as a run takes them: its own steps and data, without its events."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from experiments.records.folder import RunFolder
from experiments.train import open_run, restore_or_start


def run_epochs(
    folders: Sequence[RunFolder], devices: int, stack: ExitStack
) -> tuple[Callable[[], Any], int]:
    """Return a function that trains one further epoch, and the steps of an epoch.

    Args:
      folders: of seeds that train together.
      devices: of this process.
      stack: keeps the folders until it is closed.
    """
    run = stack.enter_context(open_run(folders, devices))
    state, done = run.steps.place(restore_or_start(run)[0]), 0

    def epoch() -> Any:
        nonlocal state, done
        done += run.parts.steps_per_epoch
        state = run.steps.advance(state, done)
        return state.sums

    return epoch, run.parts.steps_per_epoch
