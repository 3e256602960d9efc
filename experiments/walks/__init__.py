"""A run's steps over its data: `make_walk` picks the kind that the data set needs."""

from collections.abc import Iterator
from typing import Protocol

import jax
from ml_collections import ConfigDict

import supjax
from experiments.build import Parts
from experiments.data.arrays import ArrayDataset
from experiments.data.streaming import StreamedDataset
from experiments.data.types import Batch
from experiments.walks.resident import ResidentWalk
from experiments.walks.streamed import StreamedWalk
from supjax.training import TrainState
from supjax.types import PyTree


class Walk(Protocol):
    """A run's steps over its data, whatever the source."""

    def has_split(self, split: str) -> bool:
        """Say whether the data set has examples in a split."""

    def place(self, state: TrainState) -> TrainState:
        """Put a state where the steps run."""

    def advance(self, state: TrainState, sums: PyTree, stop: int) -> tuple[TrainState, PyTree]:
        """Train to just before step `stop`; return the state and the sums of the metrics."""

    def move(
        self, state: TrainState, sums: PyTree, drop_fraction: float
    ) -> tuple[TrainState, PyTree]:
        """Train one step and move the masks; return as `advance`."""

    def evaluate(self, tickets: tuple[supjax.Ticket, ...], split: str) -> dict[str, float]:
        """Return accuracy and loss of tickets answering together on a split."""

    def training_batches(self, count: int) -> Iterator[Batch]:
        """Yield the first `count` training batches, normalised (0: one epoch)."""


def make_walk(
    config: ConfigDict, parts: Parts, dataset: ArrayDataset | StreamedDataset, devices: int
) -> Walk:
    """Return the walk for a data set, resident or streamed.

    XLA's CPU backend can run convolutions inside loops several times slower than outside, so the
    CPU takes one step a dispatch; elsewhere a dispatch holds many.
    """
    if isinstance(dataset, StreamedDataset):
        return StreamedWalk(
            parts,
            dataset,
            devices,
            batch_size=config.batch_size,
            seed=config.seed,
            workers=config.runtime.decode_workers or None,
        )
    fused = jax.default_backend() != "cpu"
    if config.runtime.loop != "auto":
        fused = config.runtime.loop == "fused"
    return ResidentWalk(
        parts,
        dataset,
        devices,
        batch_size=config.batch_size,
        seed=config.seed,
        augment=config.augment,
        fused=fused,
    )
