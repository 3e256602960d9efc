"""The tickets of a finished run, superposed by every rule."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import supjax
from experiments.analysis.finished_run import FinishedRun
from supjax.analysis import losses
from supjax.superposition import SUPERPOSITIONS
from supjax.superposition.scored import RULES
from supjax.types import Ticket

LAST = "last ticket"
"""What training gives without superposition: what every rule has to be better than."""

REPAIRED = "cia, repaired"


def superpositions(run: FinishedRun) -> dict[str, Ticket]:
    """Superpose the same tickets by every rule, each ready for use.

    Rules that need a score see the run's held-out examples, never the test split if it set some
    aside. Batch-norm statistics are estimated again; a network without them is repaired too.

    Args:
      run: an opened run.

    Returns:
      Networks by the name of the rule, after `LAST`.
    """
    found = {LAST: run.tickets[-1]}
    for name in SUPERPOSITIONS:
        found[name] = run.reestimated(supjax.superpose(run.members, average=name))
    for rule in RULES:
        found[rule], _ = supjax.superpose_scored(
            run.members, held_out_losses(run), rule=rule, prepare=_prepare(run), force=True
        )
    if not jax.tree.leaves(run.superposed.batch_stats):
        found[REPAIRED] = run.repaired(found["cia"])
    return found


def held_out_losses(run: FinishedRun) -> Callable[[Ticket], np.ndarray]:
    """Return a function that gives a network's loss on each held-out example."""

    def score(ticket: Ticket) -> np.ndarray:
        logits, labels = run.predictions([ticket], run.split)
        return np.asarray(losses(logits[0], labels))

    return score


def _prepare(run: FinishedRun) -> Callable[..., Ticket]:
    def prepare(ticket: Ticket, members: Any, shares: Any) -> Ticket:
        del shares
        return ticket if len(members) == 1 else run.reestimated(ticket)

    return prepare


def scores(run: FinishedRun, networks: dict[str, Ticket]) -> dict[str, dict[str, float]]:
    """Score networks on the held-out examples and on the test split.

    Returns:
      By name: `held_out_loss` (nats), `held_out_accuracy` and `test_accuracy` (shares of 1).
    """
    found: dict[str, dict[str, float]] = {name: {} for name in networks}
    for split, prefix in ((run.split, "held_out"), ("test", "test")):
        logits, labels = run.predictions(list(networks.values()), split)
        for row, one in zip(found.values(), logits, strict=True):
            row[f"{prefix}_accuracy"] = float(np.mean(one.argmax(-1) == labels))
            if prefix == "held_out":
                row["held_out_loss"] = float(losses(one, labels).mean())
    return found
