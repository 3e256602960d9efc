"""Steps over a data set that the host decodes while the devices train."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import supjax
from experiments.data.feeding import prefetch_to_device
from experiments.data.streaming import StreamedDataset
from experiments.data.types import Batch, Shard
from experiments.run.build import Parts
from experiments.run.seed_axis import SeedAxis
from experiments.run.steps import (
    Steps,
    join_superposition,
    mean_scores,
    next_step,
    split_superposition,
)
from supjax.training import TrainState
from supjax.types import PyTree


class StreamedWalk:
    """Batches from the host, each process its share, one step a dispatch.

    JAX dispatches asynchronously: while the devices work on one step, the batches of the next ones
    are on their way to them, and the host's threads decode those after.
    """

    def __init__(
        self,
        parts: Parts,
        dataset: StreamedDataset,
        devices: int,
        *,
        batch_size: int,
        seed: int,
        workers: int | None,
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self._workers = workers
        split = devices * jax.process_count() > 1
        self._devices = jax.local_devices()[:devices] if split else None
        axis = 0 if split else None
        seeds = SeedAxis([seed])
        self._steps = Steps(parts, self._train_batch, self._eval_batch, devices, axis, seeds)
        self._process = Shard(jax.process_index(), jax.process_count())
        self._batches: Iterator[Batch] | None = None
        self._next_step = -1

    def has_split(self, split: str) -> bool:
        """Say whether the data set has examples in a split."""
        return self._dataset.sizes[split] > 0

    def place(self, state: TrainState) -> TrainState:
        """Put a state on the devices of the steps."""
        core, whole = split_superposition(state)
        return join_superposition(self._steps.place(core), whole)

    def place_sums(self, sums: PyTree) -> PyTree:
        """Put sums of metrics on the devices of the steps, which would else compile twice."""
        return self._steps.place(sums)

    def advance(self, state: TrainState, sums: PyTree, stop: int) -> tuple[TrainState, PyTree]:
        """Train to just before step `stop`."""
        core, whole = split_superposition(state)
        for step in range(next_step(core), stop):
            core, sums = self._steps.one(core, sums, self._batch(step))
        return join_superposition(core, whole), sums

    def move(
        self, state: TrainState, sums: PyTree, drop_fraction: float
    ) -> tuple[TrainState, PyTree]:
        """Train one step and move the masks."""
        core, whole = split_superposition(state)
        data = self._batch(next_step(core))
        core, sums = self._steps.moving(core, sums, data, np.float32(drop_fraction))
        return join_superposition(core, whole), sums

    def evaluate(self, tickets: tuple[supjax.Ticket, ...], split: str) -> list[dict[str, float]]:
        """Return, in a list, accuracy and loss of tickets answering together on a split."""
        tickets = self._steps.place(tickets)
        batches = self._dataset.eval_batches(
            split, self._batch_size, shard=self._process, num_threads=self._workers
        )
        return mean_scores(
            self._steps.scoring(tickets, batch)
            for batch in prefetch_to_device(batches, devices=self._devices)
        )

    def training_batches(self, count: int, index: int = 0) -> Iterator[Batch]:
        """Yield the first `count` training batches, normalised (0: one epoch)."""
        del index  # there is one seed
        batches = self._dataset.train_batches(
            self._seed, self._batch_size, num_threads=self._workers
        )
        for _ in range(count or self._dataset.steps_per_epoch(self._batch_size)):
            batch = next(batches)
            yield batch._replace(images=self._dataset.normalize(batch.images))

    def _batch(self, step: int) -> Any:
        """Return this process's share of a step's batch; in order without a gap, or anew."""
        if self._batches is None or step != self._next_step:
            batches = self._dataset.train_batches(
                self._seed,
                self._batch_size,
                start_step=step,
                shard=self._process,
                num_threads=self._workers,
            )
            self._batches = prefetch_to_device(batches, devices=self._devices)
        self._next_step = step + 1
        return next(self._batches)

    def _train_batch(self, data: Batch, step: jax.Array, shard: Shard) -> Batch:
        del step, shard  # the batch is this device's share already
        return data._replace(images=self._dataset.normalize(data.images))

    def _eval_batch(self, data: Batch, shard: Shard) -> Batch:
        del shard
        return data._replace(images=self._dataset.normalize(data.images))
