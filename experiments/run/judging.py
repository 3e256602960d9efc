"""What held-out examples say of the networks that a run kept: a diagnosis, and a choice."""

from functools import partial
from typing import Any

import jax
import numpy as np

import supjax
from experiments.records.folder import PRETRAINED, RunFolder, superposed_name, ticket_name
from experiments.run.build import RunParts
from experiments.run.steps import Source
from supjax.analysis import advice, diagnose, losses
from supjax.types import Ticket

SPLIT = "validation"
"""What choices are made on; the test split is for the result alone."""


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


class Judge:
    """Predicts held-out examples with the networks of a run's seeds."""

    def __init__(self, parts: RunParts, source: Source) -> None:
        """Compile nothing yet; the split must have examples."""
        self._parts = parts
        self._reestimated = Reestimator(parts, source)
        batches = list(parts.dataset.eval_batches(SPLIT, parts.batch_size))
        self._images = [batch.images for batch in batches]
        self._real = np.concatenate([np.asarray(batch.weights) > 0 for batch in batches])
        self._labels = np.concatenate([batch.labels for batch in batches])[self._real]
        normalize, model = parts.dataset.normalize, parts.model

        @jax.jit
        def logits(ticket: Ticket, images: jax.Array) -> jax.Array:
            variables = {"params": ticket.params, "batch_stats": ticket.batch_stats}
            return model.apply(variables, normalize(images), train=False)

        self._logits = logits

    def predict(self, ticket: Ticket) -> np.ndarray:
        """Return logits `(examples, classes)`, float32."""
        found = [np.asarray(self._logits(ticket, images)) for images in self._images]
        return np.concatenate(found)[self._real].astype(np.float32)

    def diagnosis(self, folder: RunFolder, index: int) -> dict[str, Any]:
        """Return what `supjax.analysis.diagnose` says of a seed's networks, and its advice."""
        last = self._parts.plan.num_cycles
        found = diagnose(
            self._tickets(folder, first=0),
            folder.load_ticket(superposed_name(last)),
            self.predict,
            self._labels,
            prepare=partial(self._prepared, index=index),
        )
        return {"split": SPLIT, **found._asdict(), "advice": advice(found)}

    def choose(self, folder: RunFolder, index: int) -> tuple[Ticket, dict[str, Any]]:
        """Return the network that the run's rule of selection takes for a seed, and its choice."""
        parts = self._parts
        ticket, choice = supjax.superpose_scored(
            self._tickets(folder, first=0 if parts.include_pretrained else 1),
            lambda ticket: losses(self.predict(ticket), self._labels),
            rule=parts.select,
            inner=parts.superposition,
            scope=parts.scope,
            prepare=partial(self._prepared, index=index),
            force=True,  # a config with too few examples for it was refused, or asked for it
        )
        candidates = [candidate._asdict() for candidate in choice.candidates]
        return ticket, {"split": SPLIT, **choice._asdict(), "candidates": candidates}

    def _tickets(self, folder: RunFolder, first: int) -> list[Ticket]:
        names = [PRETRAINED, *(ticket_name(i + 1) for i in range(self._parts.plan.num_cycles))]
        return [folder.load_ticket(name) for name in names[first:]]

    def _prepared(self, ticket: Ticket, members: Any, shares: Any, *, index: int) -> Ticket:
        del shares
        return ticket if len(members) == 1 else self._reestimated(ticket, index)
