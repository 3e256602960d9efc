"""Steps over a data set that lives on the device."""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

import supjax
from experiments.data.arrays import ArrayDataset, epoch_permutation, train_batch
from experiments.data.types import Augmentation, Batch, Shard, Split
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

DATA_KEY = 2
"""What a run's seed is folded with for the order and augmentation of its examples."""

Data = tuple[jax.Array, jax.Array, Split]
"""Key, order of the examples in this epoch, and the examples; the seeds differ in the first two."""


class ResidentWalk:
    """A data set on the device as uint8: shuffled, augmented and batched inside the steps."""

    def __init__(
        self,
        parts: Parts,
        dataset: ArrayDataset,
        devices: int,
        *,
        batch_size: int,
        seeds: SeedAxis,
        augment: bool,
        fused: bool,
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._steps_per_epoch = dataset.steps_per_epoch(batch_size)
        self._augmentation = dataset.augmentation if augment else Augmentation()
        self._keys = [jax.random.fold_in(jax.random.key(s), DATA_KEY) for s in seeds.seeds]
        self._fused = fused
        self._steps = Steps(
            parts,
            self._train_batch,
            self._eval_batch,
            devices,
            None,
            seeds,
            seeded_data=(0, 0, None),
        )
        self._key = self._steps.place(seeds.stack(self._keys))
        self._train = self._steps.place(dataset.split("train"))
        self._held_out: dict[str, list[Batch]] = {}
        self._epoch = -1
        permutation = partial(epoch_permutation, size=dataset.sizes["train"])
        self._permutations = jax.jit(seeds.lift(permutation, in_axes=(0, None)))
        self._permutation = jax.jit(permutation)
        self._batch = jax.jit(lambda data, step: self._train_batch(data, step, Shard()))

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
        """Train to just before step `stop`, all in one epoch."""
        core, whole = split_superposition(state)
        step = next_step(core)
        data = self._data(step)
        if self._fused:
            core, sums = self._steps.many(core, sums, data, np.int32(stop))
        else:
            for _ in range(stop - step):
                core, sums = self._steps.one(core, sums, data)
        return join_superposition(core, whole), sums

    def move(
        self, state: TrainState, sums: PyTree, drop_fraction: float
    ) -> tuple[TrainState, PyTree]:
        """Train one step and move the masks."""
        core, whole = split_superposition(state)
        data = self._data(next_step(core))
        core, sums = self._steps.moving(core, sums, data, np.float32(drop_fraction))
        return join_superposition(core, whole), sums

    def evaluate(self, tickets: tuple[supjax.Ticket, ...], split: str) -> list[dict[str, float]]:
        """Return every seed's accuracy and loss of tickets answering together on a split."""
        if split not in self._held_out:
            batches = self._dataset.eval_batches(split, self._batch_size)
            self._held_out[split] = [self._steps.place(batch) for batch in batches]
        tickets = self._steps.place(tickets)
        return mean_scores(self._steps.scoring(tickets, batch) for batch in self._held_out[split])

    def training_batches(self, count: int, index: int = 0) -> Iterator[Batch]:
        """Yield the first `count` training batches of one seed, normalised (0: one epoch)."""
        key, train = self._keys[index], self._dataset.split("train")
        for step in range(count or self._steps_per_epoch):
            order = self._permutation(key, step // self._steps_per_epoch)
            yield self._batch((key, order, train), np.int32(step))

    def _data(self, step: int) -> Data:
        """Return the examples and their order in the epoch of a step, on the devices."""
        epoch = step // self._steps_per_epoch
        if epoch != self._epoch:
            order = self._permutations(self._key, epoch)
            self._epoch, self._order = epoch, self._steps.place(order)
        return self._key, self._order, self._train

    def _train_batch(self, data: Data, step: jax.Array, shard: Shard) -> Batch:
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

    def _eval_batch(self, data: Batch, shard: Shard) -> Batch:
        size = shard.size(self._batch_size)

        def share(leaf: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(leaf, shard.index * size, size)

        batch = jax.tree.map(share, data)
        return batch._replace(images=self._dataset.normalize(batch.images))
