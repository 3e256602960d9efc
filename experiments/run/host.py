"""What a run asks of the machine it is on: the time, and its other processes."""

import time
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

MAX_STEPS = 10_000


@dataclass
class Clock:
    """Seconds and images of a run; what a checkpoint keeps of them goes on counting.

    Attributes:
      seconds: time of the run in earlier processes.
      train_seconds: time inside training steps, first calls (compilation) left out.
      train_images: images in that time.

    >>> clock = Clock(seconds=10.0)
    >>> clock.record("train", steps=4, images=400, seconds=9.0)  # compiles
    >>> clock.record("train", steps=4, images=400, seconds=2.0)
    >>> clock.images_per_second, clock.steps_within(1.0)
    (200.0, 2)
    """

    seconds: float = 0.0
    train_seconds: float = 0.0
    train_images: int = 0
    _start: float = field(default_factory=time.monotonic)
    _step_seconds: float = 0.0
    _compiled: set[str] = field(default_factory=set)

    @property
    def elapsed(self) -> float:
        """Wall time of the run in seconds, all its processes together."""
        return self.seconds + time.monotonic() - self._start

    @property
    def images_per_second(self) -> float:
        """Training speed without compilation; 0 before it is known."""
        return self.train_images / self.train_seconds if self.train_seconds else 0.0

    def record(self, kind: str, *, steps: int, images: int, seconds: float) -> None:
        """Count a dispatch of some steps; the first of every kind compiles and does not count."""
        if kind not in self._compiled:
            self._compiled.add(kind)
            return
        self.train_seconds += seconds
        self.train_images += images
        self._step_seconds = seconds / steps

    def steps_within(self, seconds: float) -> int:
        """Return how many steps fit into a time, at least 1; 1 before the speed is known."""
        if not self._step_seconds:
            return 1
        return min(max(int(seconds / self._step_seconds), 1), MAX_STEPS)

    def go_on(self, saved: dict[str, Any]) -> None:
        """Take over what a checkpoint has kept."""
        self.seconds = saved["seconds"]
        self.train_seconds, self.train_images = saved["train_seconds"], saved["train_images"]

    def saved(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "seconds": self.elapsed,
            "train_seconds": self.train_seconds,
            "train_images": self.train_images,
        }


def wait_for_all(what: str) -> None:
    """Return when every process has come here, for example with a file written by the first.

    >>> wait_for_all("result")
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def agreed_stop(stop: int, signal_number: int) -> tuple[int, int]:
    """Return the earliest stop and the largest signal number that any process proposes.

    Compiled steps of several processes talk to each other, so all run the same number of them;
    and a signal that only one process has received stops them all at the same step.

    >>> agreed_stop(7, 0)
    (7, 0)
    """
    if jax.process_count() == 1:
        return stop, signal_number
    proposals = multihost_utils.process_allgather(np.array([stop, -signal_number], np.int32))
    first, negated = proposals.min(axis=0).tolist()
    return first, -negated
