"""What held-out examples say of the networks that a run kept: a diagnosis, and a choice."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

import supjax
from experiments.data.types import Batch
from experiments.records.folder import PRETRAINED, RunFolder, superposed_name, ticket_name
from experiments.run.build import RunParts
from experiments.run.cycles import Neighbours, measured_batches
from experiments.run.mending import Mender, Reestimator
from experiments.run.steps import Source
from supjax.analysis import (
    advice,
    diagnose,
    disagreement,
    interpolate,
    losses,
    paired_difference,
)
from supjax.types import Ticket

SPLIT = "validation"
"""What choices are made on; the test split is for the result alone."""

TRAINING = "training"
"""What cycles that adapt look at where no examples are held out."""


class Judge:
    """Predicts held-out examples, or without any training examples, with networks of the seeds.

    Attributes:
      split: what they are, in words.
    """

    def __init__(self, parts: RunParts, source: Source) -> None:
        """Compile nothing yet."""
        self._parts, self._source = parts, source
        self._reestimated = Reestimator(parts, source)
        self.split = SPLIT if source.has_split(SPLIT) else TRAINING
        self._held_out: list[Batch] = []
        if self.split == SPLIT:
            self._held_out = list(parts.dataset.eval_batches(SPLIT, parts.batch_size))
        self._normalize, model = jax.jit(parts.dataset.normalize), parts.model

        @jax.jit
        def logits(ticket: Ticket, images: jax.Array) -> jax.Array:
            variables = {"params": ticket.params, "batch_stats": ticket.batch_stats}
            return model.apply(variables, images, train=False)

        self._logits = logits

    def predict(self, ticket: Ticket, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return logits `(examples, classes)`, float32, and the labels of a seed's examples."""
        logits, labels = [], []
        for batch in self._examples(index):
            real = np.asarray(batch.weights) > 0
            logits.append(np.asarray(self._logits(ticket, batch.images))[real])
            labels.append(np.asarray(batch.labels)[real])
        return np.concatenate(logits).astype(np.float32), np.concatenate(labels)

    def neighbours(self, first: Ticket, second: Ticket, index: int) -> Neighbours:
        """Return what a seed's ticket and the network before it are to each other.

        Args:
          first: the network at the end of the cycle before, or of the normal phase.
          second: the ticket.
          index: of the seed.
        """
        middle = self._reestimated(interpolate(first, second, 0.5), index)
        found = [self.predict(ticket, index) for ticket in (first, second, middle)]
        before, after, between = (losses(logits, labels) for logits, labels in found)
        return Neighbours(
            disagreement=float(disagreement(found[0][0], found[1][0])),
            loss=float(after.mean()),
            previous_loss=float(before.mean()),
            standard_error=float(paired_difference(after, before).standard_error),
            middle_loss=float(between.mean()),
        )

    def _examples(self, index: int) -> Iterator[Batch]:
        """Yield normalised batches: held-out ones, or the first training batches of a seed."""
        if self.split == TRAINING:
            size, epoch = self._parts.batch_size, self._parts.steps_per_epoch
            yield from self._source.training_batches(measured_batches(size, epoch), index)
        for batch in self._held_out:
            yield batch._replace(images=self._normalize(batch.images))

    def diagnosis(self, folder: RunFolder, index: int) -> dict[str, Any]:
        """Return what `supjax.analysis.diagnose` says of a seed's networks, and its advice."""
        tickets, last = self._tickets(folder, first=0), self._parts.plan.num_cycles
        found = diagnose(
            tickets,
            folder.load_ticket(superposed_name(last)),
            lambda ticket: self.predict(ticket, index)[0],
            self.predict(tickets[0], index)[1],
            prepare=partial(self._prepared, index=index),
        )
        return {"split": self.split, **found._asdict(), "advice": advice(found)}

    def choose(self, folder: RunFolder, index: int) -> tuple[Ticket, dict[str, Any]]:
        """Return the network that the run's rule of selection takes for a seed, and its choice."""
        parts = self._parts
        mender = Mender(parts, self._source) if parts.repair else None
        ticket, choice = supjax.superpose_scored(
            self._tickets(folder, first=0 if parts.include_pretrained else 1),
            lambda ticket: losses(*self.predict(ticket, index)),
            rule=parts.select,
            inner=parts.superposition,
            scope=parts.scope,
            prepare=partial(self._prepared, index=index, mender=mender),
            force=True,  # a config with too few examples for it was refused, or asked for it
        )
        candidates = [candidate._asdict() for candidate in choice.candidates]
        return ticket, {"split": self.split, **choice._asdict(), "candidates": candidates}

    def _tickets(self, folder: RunFolder, first: int) -> list[Ticket]:
        names = [PRETRAINED, *(ticket_name(i + 1) for i in range(self._parts.plan.num_cycles))]
        return [folder.load_ticket(name) for name in names[first:]]

    def _prepared(
        self,
        ticket: Ticket,
        members: Any,
        shares: Any,
        *,
        index: int,
        mender: Mender | None = None,
    ) -> Ticket:
        if len(members) == 1:
            return ticket
        if mender is not None:
            return mender(ticket, members, index, shares)
        return self._reestimated(ticket, index)
