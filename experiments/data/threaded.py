"""Batches assembled by worker threads, in order, a bounded number of them ahead of the reader."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from experiments.data.types import Batch

Job = TypeVar("Job")

_CHUNK = 16  # Images a task: few tasks, and no thread idles long at the end of a batch.


class Loaded(NamedTuple):
    """One loaded example.

    Attributes:
      image: uint8 `[H, W, C]`, or None for a padding example of weight 0.
      label: its class.
      notes: what the reader of the batches is to be told, in order.
    """

    image: np.ndarray | None
    label: int = 0
    notes: tuple[str, ...] = ()


def default_threads() -> int:
    """Return the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_batches(
    steps: Iterable[Sequence[Job]],
    load: Callable[[Job], Loaded],
    image_shape: tuple[int, ...],
    *,
    on_note: Callable[[str], Any],
    num_threads: int | None = None,
    ahead: int = 2,
) -> Iterator[Batch]:
    """Yield one batch for every sequence of jobs, in order.

    Args:
      steps: the jobs of every batch; drawn from only as far as batches are loaded ahead.
      load: runs in the worker threads and should spend its time outside Python's lock, as decoding
        does. An exception of its is raised where the batch would have been yielded.
      image_shape: of every image.
      on_note: called with every note, in the thread that draws the batches.
      num_threads: one a processor core if None.
      ahead: batches that are loaded or being loaded beyond the one that is yielded.

    Yields:
      Host batches, newly allocated, so that they may be kept.
    """
    with ThreadPoolExecutor(num_threads or default_threads(), "decode") as pool:
        started = (_start(pool, jobs, load, image_shape) for jobs in steps)
        pending = deque(itertools.islice(started, ahead))
        try:
            while True:
                pending.extend(itertools.islice(started, 1))
                if not pending:
                    return
                batch, futures = pending.popleft()
                for future in futures:
                    for note in future.result():
                        on_note(note)
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(
    pool: ThreadPoolExecutor,
    jobs: Sequence[Job],
    load: Callable[[Job], Loaded],
    image_shape: tuple[int, ...],
) -> tuple[Batch, list[Future[list[str]]]]:
    batch = Batch(
        np.zeros((len(jobs), *image_shape), np.uint8),
        np.zeros(len(jobs), np.int32),
        np.zeros(len(jobs), np.float32),
    )

    def fill(start: int) -> list[str]:
        notes: list[str] = []
        for place, job in enumerate(jobs[start : start + _CHUNK], start):
            loaded = load(job)
            notes.extend(loaded.notes)
            if loaded.image is not None:
                batch.images[place] = loaded.image
                batch.labels[place] = loaded.label
                batch.weights[place] = 1
        return notes

    return batch, [pool.submit(fill, start) for start in range(0, len(jobs), _CHUNK)]
