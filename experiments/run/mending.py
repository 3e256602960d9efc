"""What averaged networks need before they are used: batch-norm statistics again, and repair."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax

import supjax
from experiments.errors import RunError
from experiments.run.build import RunParts
from experiments.run.steps import Source
from supjax.types import Ticket

BATCHES = 10
"""Training batches that activations are measured on, at most an epoch."""


class Reestimator:
    """Gives a superposed network the batch-norm statistics that a run wants."""

    def __init__(self, parts: RunParts, source: Source) -> None:
        self._source, self._count = source, parts.recompute_batches
        self._apply_fn = partial(parts.model.apply, train=True, mutable=["batch_stats"])

    def __call__(self, ticket: Ticket, index: int) -> Ticket:
        """Return the network with statistics of the first training batches of one seed.

        Args:
          ticket: a network whose statistics are averages; they stay where the run averages.
          index: of the seed.
        """
        if self._count is None or not jax.tree.leaves(ticket.batch_stats):
            return ticket
        batches = self._source.training_batches(self._count, index)
        return supjax.recompute_batch_stats(self._apply_fn, ticket, (b.images for b in batches))


class Mender:
    """Repairs averaged networks of a run's seeds, and gives them batch-norm statistics again.

    Layers are measured in training mode, so that batch norm follows what is mended before it.

    Attributes:
      images: how many are measured.
    """

    def __init__(self, parts: RunParts, source: Source) -> None:
        self._source = source
        self._count = min(BATCHES, parts.steps_per_epoch)
        self._layers = supjax.linen_preactivations(parts.model, train=True)
        self._reestimated = Reestimator(parts, source)
        self.images = self._count * parts.batch_size

    def __call__(
        self, ticket: Ticket, members: Sequence[Ticket], index: int, shares: Any = None
    ) -> Ticket:
        """Return the network as it is to be used, on the same masks.

        Args:
          ticket: a mean of the members.
          members: what was averaged.
          index: of the seed, whose first training batches are used.
          shares: of the members in the mean; None for equal ones.

        Raises:
          RunError: if activations are not finite.
        """
        batches = [batch.images for batch in self._source.training_batches(self._count, index)]
        try:
            mended = supjax.repair(self._layers, members, ticket, batches, shares=shares)
        except ValueError as error:
            raise RunError(f"sup_tickets.repair: {error}") from error
        return self._reestimated(mended, index)
