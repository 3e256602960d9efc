"""Batches of a data set that the host decodes while the devices train."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax

from experiments.data.feeding import prefetch_to_device
from experiments.data.streaming import StreamedDataset
from experiments.data.types import Batch, Shard
from experiments.run.steps import Placement


class StreamedSource:
    """Batches from the host, each process its share, one step a dispatch.

    JAX dispatches asynchronously: while the devices work on one step, the batches of the next ones
    are on their way to them, and the host's threads decode those after.
    """

    fused = False
    seeded: Any = None

    def __init__(
        self,
        dataset: StreamedDataset,
        placement: Placement,
        *,
        batch_size: int,
        seed: int,
        workers: int | None,
    ) -> None:
        self.data_axis = None if placement.axis is None else 0
        self._dataset = dataset
        self._devices = placement.devices
        self._batch_size = batch_size
        self._seed = seed
        self._workers = workers
        self._process = Shard(jax.process_index(), jax.process_count())
        self._batches: Iterator[Batch] | None = None
        self._next_step = -1

    def has_split(self, split: str) -> bool:
        """Say whether the data set has examples in a split."""
        return self._dataset.sizes[split] > 0

    def data(self, step: int) -> Any:
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

    def train_batch(self, data: Batch, step: jax.Array, shard: Shard) -> Batch:
        """Return a batch that is one device's share already."""
        del step, shard
        return data._replace(images=self._dataset.normalize(data.images))

    def held_out(self, split: str) -> Iterable[Any]:
        """Return the batches of a split, decoded anew."""
        batches = self._dataset.eval_batches(
            split, self._batch_size, shard=self._process, num_threads=self._workers
        )
        return prefetch_to_device(batches, devices=self._devices)

    def eval_batch(self, data: Batch, shard: Shard) -> Batch:
        """Return a batch for evaluation that is one device's share already."""
        del shard
        return data._replace(images=self._dataset.normalize(data.images))

    def training_batches(self, count: int, index: int = 0) -> Iterator[Batch]:
        """Yield the first `count` training batches, normalised."""
        del index  # there is one seed
        batches = self._dataset.train_batches(
            self._seed, self._batch_size, num_threads=self._workers
        )
        for _ in range(count):
            batch = next(batches)
            yield batch._replace(images=self._dataset.normalize(batch.images))
