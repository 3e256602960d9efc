"""A run's steps over its data: `make_walk` picks the kind that the data set needs."""

from collections.abc import Iterator
from typing import Protocol

import jax
from ml_collections import ConfigDict

import supjax
from experiments.data.arrays import ArrayDataset
from experiments.data.streaming import StreamedDataset
from experiments.data.types import Batch
from experiments.errors import ConfigError
from experiments.run.build import Parts
from experiments.run.resident import ResidentWalk
from experiments.run.seed_axis import SeedAxis
from experiments.run.streamed import StreamedWalk
from supjax.training import TrainState
from supjax.types import PyTree


class Walk(Protocol):
    """A run's steps over its data, whatever the source; states have the axis of its seeds."""

    def has_split(self, split: str) -> bool:
        """Say whether the data set has examples in a split."""

    def place(self, state: TrainState) -> TrainState:
        """Put a state where the steps run."""

    def place_sums(self, sums: PyTree) -> PyTree:
        """Put sums of metrics where the steps run."""

    def advance(self, state: TrainState, sums: PyTree, stop: int) -> tuple[TrainState, PyTree]:
        """Train to just before step `stop`; return the state and the sums of the metrics."""

    def move(
        self, state: TrainState, sums: PyTree, drop_fraction: float
    ) -> tuple[TrainState, PyTree]:
        """Train one step and move the masks; return as `advance`."""

    def evaluate(self, tickets: tuple[supjax.Ticket, ...], split: str) -> list[dict[str, float]]:
        """Return every seed's accuracy and loss of tickets answering together on a split."""

    def training_batches(self, count: int, index: int = 0) -> Iterator[Batch]:
        """Yield the first `count` training batches of one seed, normalised (0: one epoch)."""


def make_walk(
    config: ConfigDict,
    parts: Parts,
    dataset: ArrayDataset | StreamedDataset,
    devices: int,
    seeds: SeedAxis,
) -> Walk:
    """Return the walk of one or more seeds over a data set, resident or streamed.

    XLA's CPU backend can run convolutions inside loops several times slower than outside, so the
    CPU takes one step a dispatch; elsewhere a dispatch holds many.

    Raises:
      ConfigError: for several seeds over a streamed data set.
    """
    if isinstance(dataset, StreamedDataset):
        if len(seeds.seeds) > 1:
            raise ConfigError(f"{dataset.name} is streamed: its seeds train one by one")
        return StreamedWalk(
            parts,
            dataset,
            devices,
            batch_size=config.batch_size,
            seed=seeds.seeds[0],
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
        seeds=seeds,
        augment=config.augment,
        fused=fused,
    )
