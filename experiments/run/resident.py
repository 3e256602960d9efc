"""Batches of a data set that lives on the device."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.data.arrays import ArrayDataset, epoch_permutation, train_batch
from experiments.data.types import Augmentation, Batch, Shard, Split
from experiments.run.seed_axis import SeedAxis
from experiments.run.steps import Placement

DATA_KEY = 2
"""What a run's seed is folded with for the order and augmentation of its examples."""

Data = tuple[jax.Array, jax.Array, Split]
"""Key, order of the examples in this epoch, and the examples; the seeds differ in the first two."""


class ResidentSource:
    """A data set on the device as uint8: shuffled, augmented and batched inside the steps."""

    data_axis: int | None = None
    seeded: Any = (0, 0, None)

    def __init__(
        self,
        dataset: ArrayDataset,
        placement: Placement,
        seeds: SeedAxis,
        *,
        batch_size: int,
        augment: bool,
        fused: bool,
    ) -> None:
        self.fused = fused
        self._dataset = dataset
        self._place = placement.place
        self._batch_size = batch_size
        self._steps_per_epoch = dataset.steps_per_epoch(batch_size)
        self._augmentation = dataset.augmentation if augment else Augmentation()
        self._keys = [jax.random.fold_in(jax.random.key(s), DATA_KEY) for s in seeds.seeds]
        self._key = self._place(seeds.stack(self._keys))
        self._train = self._place(dataset.split("train"))
        self._held_out: dict[str, list[Batch]] = {}
        self._epoch = -1
        permutation = partial(epoch_permutation, size=dataset.sizes["train"])
        self._permutations = jax.jit(seeds.lift(permutation, in_axes=(0, None)))
        self._permutation = jax.jit(permutation)
        self._batch = jax.jit(lambda data, step: self.train_batch(data, step, Shard()))

    def has_split(self, split: str) -> bool:
        """Say whether the data set has examples in a split."""
        return self._dataset.sizes[split] > 0

    def data(self, step: int) -> Data:
        """Return the examples and their order in the epoch of a step, on the devices."""
        epoch = step // self._steps_per_epoch
        if epoch != self._epoch:
            order = self._permutations(self._key, epoch)
            self._epoch, self._order = epoch, self._place(order)
        return self._key, self._order, self._train

    def train_batch(self, data: Data, step: jax.Array, shard: Shard) -> Batch:
        """Return one device's share of a step's batch."""
        key, order, split = data
        batch = train_batch(
            key,
            split,
            order,
            step // self._steps_per_epoch,
            step % self._steps_per_epoch,
            batch_size=self._batch_size,
            augmentation=self._augmentation,
            shard=shard,
        )
        return batch._replace(images=self._dataset.normalize(batch.images))

    def held_out(self, split: str) -> Iterable[Batch]:
        """Return the batches of a split, kept on the devices."""
        if split not in self._held_out:
            batches = self._dataset.eval_batches(split, self._batch_size)
            self._held_out[split] = [self._place(batch) for batch in batches]
        return self._held_out[split]

    def eval_batch(self, data: Batch, shard: Shard) -> Batch:
        """Return one device's share of a batch for evaluation."""
        size = shard.size(self._batch_size)

        def share(leaf: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(leaf, shard.index * size, size)

        batch = jax.tree.map(share, data)
        return batch._replace(images=self._dataset.normalize(batch.images))

    def training_batches(self, count: int, index: int = 0) -> Iterator[Batch]:
        """Yield the first `count` training batches of one seed, normalised."""
        key, train = self._keys[index], self._dataset.split("train")
        for step in range(count):
            order = self._permutation(key, step // self._steps_per_epoch)
            yield self._batch((key, order, train), np.int32(step))
