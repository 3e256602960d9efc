"""Cycles that follow what the last one did: what a config fixes of them, and what is in the state.

The rules are `supjax.adaptive`. The highest rate of the cycles to come stands in the optimizer
state, the share that they explore in the method's, so that checkpoints hold both.
"""

from typing import Any, NamedTuple

import jax

from supjax.adaptive import CycleRates
from supjax.training import TrainState
from supjax.types import PyTree

MEASURED = 5_000
"""Training images on which tickets are compared where no images are held out."""


class Adaptation(NamedTuple):
    """What cycles aim at, and between what their values stay.

    Attributes:
      target: share of images on which neighbouring tickets should differ.
      low: smallest rate.
      peak: largest rate.
      most: largest share of the weights that a cycle explores.
    """

    target: float
    low: float
    peak: float
    most: float


class Neighbours(NamedTuple):
    """What a ticket and the network at the end of the cycle before are to each other.

    Attributes:
      disagreement: share of images to which they give different classes.
      loss: mean loss of the ticket.
      previous_loss: of the one before.
      standard_error: of the difference of both, paired.
      middle_loss: of the mean of both, as it would be used.
    """

    disagreement: float
    loss: float
    previous_loss: float
    standard_error: float
    middle_loss: float

    @property
    def barrier(self) -> float:
        """Loss of the mean above the mean of the losses."""
        return self.middle_loss - (self.loss + self.previous_loss) / 2


class CycleValues(NamedTuple):
    """What a cycle runs with: highest rate and explored share, one each, or one a seed."""

    high: jax.Array
    exploration: jax.Array


def measured_batches(batch_size: int, steps_per_epoch: int) -> int:
    """Return how many training batches hold `MEASURED` images, at most an epoch.

    >>> measured_batches(128, 390), measured_batches(64, 19)
    (40, 19)
    """
    return min(-(-MEASURED // batch_size), steps_per_epoch)


def cycle_values(train: TrainState) -> CycleValues:
    """Return what the cycle of a state runs with; the next one, between two cycles."""
    [high] = [node.high for node in _nodes(train.opt_state) if isinstance(node, CycleRates)]
    return CycleValues(high, train.topology.extra.exploration)


def with_cycle_values(train: TrainState, values: CycleValues) -> TrainState:
    """Return a state whose next cycle runs with other values."""

    def changed(node: Any) -> Any:
        return node._replace(high=values.high) if isinstance(node, CycleRates) else node

    extra = train.topology.extra._replace(exploration=values.exploration)
    return train._replace(
        opt_state=jax.tree.map(changed, train.opt_state, is_leaf=_is_rates),
        topology=train.topology._replace(extra=extra),
    )


def _is_rates(node: Any) -> bool:
    return isinstance(node, CycleRates)


def _nodes(tree: PyTree) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_rates)
