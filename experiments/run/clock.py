"""How long a run has taken, over all its parts, and how many steps a dispatch should hold."""

import time
from dataclasses import dataclass, field
from typing import Any

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

    def saved(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "seconds": self.elapsed,
            "train_seconds": self.train_seconds,
            "train_images": self.train_images,
        }
