"""Epochs of training as a run takes them: its own steps, data and walk, without its events."""

from collections.abc import Callable, Sequence
from typing import Any

from experiments.run.tickets import Member
from experiments.train import Run


def run_epochs(members: Sequence[Member], devices: int) -> tuple[Callable[[], Any], int]:
    """Return a function that trains one further epoch, and the steps of an epoch.

    Args:
      members: seeds that train together, and where they write.
      devices: of this process.
    """
    run = Run(members, devices)
    states, _ = run.restore_or_start()
    state, sums, done = run.walk.place(states), run.sums, 0

    def epoch() -> Any:
        nonlocal state, sums, done
        done += run.steps_per_epoch
        state, sums = run.walk.advance(state, sums, done)
        return sums

    return epoch, run.steps_per_epoch
