"""Why a superposition is as good as it is: numbers about tickets, and one sentence of advice."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from supjax.adaptive import BARRIER_SHARE, TARGET_DISAGREEMENT
from supjax.analysis.calibration import losses as losses_of
from supjax.analysis.distance import disagreement
from supjax.analysis.path import interpolate
from supjax.paired import paired_difference
from supjax.tickets import on_nodes_of, on_own_nodes
from supjax.types import Params, Ticket

HARDLY_DIFFER = TARGET_DISAGREEMENT / 2
"""Tickets whose mean disagreement is below half of the target are nearly one network."""

STILL_LEARNING = 0.1
"""Share of a ticket's loss that the last cycle took off while the network was still learning."""

SURE = 2.0
"""How many paired standard errors a change of loss must be to be believed."""

Predict = Callable[[Ticket], Any]
"""`(ticket) -> logits (examples, classes)`, of the same examples every time."""

Prepare = Callable[[Ticket, Sequence[Ticket], Sequence[float]], Ticket]
"""`(network, its members, their shares) -> network` as it would be used."""


class Diagnosis(NamedTuple):
    """What `diagnose` found, in plain numbers; tuples over neighbours are one shorter than losses.

    Attributes:
      losses: mean loss of every ticket, in nats; the first is the end of the normal phase.
      changes: loss of every ticket minus that of the one before.
      change_errors: paired standard error of these.
      distances: `|w_i - w_j| / sqrt(|w_i| |w_j|)` of neighbours over all weights.
      disagreements: share of examples to which neighbours give different classes.
      barriers: loss of the mean of two neighbours minus the mean of their losses.
      norm_ratio: norm of the superposition's weights over the tickets' mean norm.
      superposition_loss: mean loss of the superposition as it is used.
      reestimation_gain: how much lower that is than its loss before `prepare`; None without one.
      exploration_costs: loss just after every exploration minus that of the ticket before; None
        where it was not measured.
      images: how many examples all of it rests on.

    >>> Diagnosis._fields[:3]
    ('losses', 'changes', 'change_errors')
    """

    losses: tuple[float, ...]
    changes: tuple[float, ...]
    change_errors: tuple[float, ...]
    distances: tuple[float, ...]
    disagreements: tuple[float, ...]
    barriers: tuple[float, ...]
    norm_ratio: float
    superposition_loss: float
    reestimation_gain: float | None
    exploration_costs: tuple[float, ...] | None
    images: int


def diagnose(
    tickets: Sequence[Ticket],
    superposition: Ticket,
    predict: Predict,
    labels: Any,
    *,
    prepare: Prepare | None = None,
    after_exploration: Sequence[float] | None = None,
) -> Diagnosis:
    """Measure what decides whether tickets average well.

    A mean of tickets gains from their differences as long as they lie in one basin: neighbours
    should disagree on about `TARGET_DISAGREEMENT` of the inputs with no barrier between them.
    `advice` says what follows from the numbers.

    Args:
      tickets: the members in the order of training, the network at the end of the normal phase
        first; at least two.
      superposition: what was made of them, before `prepare`.
      predict: `(ticket) -> logits`, `(examples, classes)`, on held-out examples.
      labels: integers `(examples,)`.
      prepare: `(network, members, shares) -> network`, done to averaged networks before they are
        used, the middles between neighbours included; see `supjax.superpose_scored`.
      after_exploration: mean losses of the same examples just after the exploration of every
        cycle, where they were measured.

    Returns:
      A `Diagnosis`.

    Raises:
      ValueError: fewer than two tickets, other networks, shapes that do not fit, or not one loss
        after exploration a cycle.
      TypeError: logits that are not floating-point or labels that are not integers.

    Source: Frankle et al., ICML 2020 (barriers); Fort et al., 2019 (disagreement); Jordan et al.,
    ICLR 2023 (the loss of variance in a mean).

    >>> make = lambda x: Ticket({"w": jnp.array([x, 1.0])}, {"w": None})
    >>> first, second = make(2.0), make(4.0)
    >>> def predict(ticket):
    ...     return jnp.array([[1.0, -1.0]]) * ticket.params["w"][:, None]
    >>> found = diagnose([first, second], make(3.0), predict, jnp.array([0, 0]))
    >>> found.disagreements, found.images, round(found.norm_ratio, 3), advice(found)
    ((0.0,), 2, 0.995, 'tickets hardly differ: raise high')
    """
    if len(tickets) < 2:
        raise ValueError(f"a diagnosis needs at least 2 tickets, got {len(tickets)}")
    cycles = len(tickets) - 1
    if after_exploration is not None and len(after_exploration) != cycles:
        raise ValueError(
            f"after_exploration must have a loss for each of {cycles} cycles, "
            f"got {len(after_exploration)}"
        )
    first = on_own_nodes(tickets[0])
    hung = [on_nodes_of(first, other, f"ticket {i}") for i, other in enumerate(tickets)]
    superposed = on_nodes_of(first, superposition, "the superposition")

    def losses(ticket: Ticket) -> jax.Array:
        return losses_of(predict(ticket), labels)

    def ready(network: Ticket, members: Sequence[Ticket]) -> Ticket:
        if prepare is None:
            return network
        return prepare(network, members, [1 / len(members)] * len(members))

    logits = [predict(ticket) for ticket in hung]
    each = [losses_of(one, labels) for one in logits]
    means = [float(jnp.mean(one)) for one in each]
    pairs = [(i, i + 1) for i in range(cycles)]
    changes = [paired_difference(each[j], each[i]) for i, j in pairs]
    middles = [
        losses(ready(interpolate(hung[i], hung[j], 0.5), [hung[i], hung[j]])) for i, j in pairs
    ]
    norms = [_norm(ticket.params) for ticket in hung]
    used = float(jnp.mean(losses(ready(superposed, hung))))
    gain = None if prepare is None else float(jnp.mean(losses(superposed))) - used
    costs = None
    if after_exploration is not None:
        pairs_of_losses = zip(after_exploration, means[:-1], strict=True)
        costs = tuple(float(loss) - before for loss, before in pairs_of_losses)
    return Diagnosis(
        losses=tuple(means),
        changes=tuple(float(change.difference) for change in changes),
        change_errors=tuple(float(change.standard_error) for change in changes),
        distances=tuple(_relative_distance(hung[i].params, hung[j].params) for i, j in pairs),
        disagreements=tuple(float(disagreement(logits[i], logits[j])) for i, j in pairs),
        barriers=tuple(
            float(jnp.mean(middle)) - (means[i] + means[j]) / 2
            for middle, (i, j) in zip(middles, pairs, strict=True)
        ),
        norm_ratio=_norm(superposed.params) / (sum(norms) / len(norms)),
        superposition_loss=used,
        reestimation_gain=gain,
        exploration_costs=costs,
        images=int(each[0].size),
    )


def advice(diagnosis: Diagnosis) -> str:
    """Return one sentence that says what to change about the cycles.

    The first of these that holds: a barrier above a tenth of its neighbours' mean loss (or one that
    is not a number); a last ticket that is surely worse than the one before; a last cycle that
    surely took off more than `STILL_LEARNING` of the loss; a mean disagreement below
    `HARDLY_DIFFER`. Sure is a change of `SURE` paired standard errors.

    Args:
      diagnosis: what `diagnose` found.

    Returns:
      The sentence.

    >>> neighbours = (0.0,), (0.01,), (0.3,), (0.02,), (0.0,)
    >>> numbers = Diagnosis((0.4, 0.4), *neighbours, 1.0, 0.3, 0.0, None, 900)
    >>> advice(numbers)
    'nothing to change'
    >>> advice(numbers._replace(barriers=(0.05,)))
    'tickets are in different basins: lower high'
    """
    neighbours = zip(diagnosis.losses[:-1], diagnosis.losses[1:], diagnosis.barriers, strict=True)
    if any(not barrier <= BARRIER_SHARE * (a + b) / 2 for a, b, barrier in neighbours):
        return "tickets are in different basins: lower high"
    change, error = diagnosis.changes[-1], diagnosis.change_errors[-1]
    if change > SURE * error:
        return "a cycle does not train what it grows: lower exploration"
    if -change > SURE * error and -change > STILL_LEARNING * diagnosis.losses[-2]:
        return "still learning in the cycles: lengthen the normal phase"
    if sum(diagnosis.disagreements) < HARDLY_DIFFER * len(diagnosis.disagreements):
        return "tickets hardly differ: raise high"
    return "nothing to change"


def _norm(params: Params) -> float:
    """Return the Euclidean norm of all weights, computed in float32 or wider."""
    return float(_sum_of_squares(params) ** 0.5)


@jax.jit
def _sum_of_squares(params: Params) -> jax.Array:
    wide = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in _arrays(params)]
    return sum((jnp.sum(leaf**2) for leaf in wide), start=jnp.zeros(()))


def _relative_distance(first: Params, second: Params) -> float:
    """Return `|a - b| / sqrt(|a| |b|)`, 0 for equal weights."""
    pairs = zip(_arrays(first), _arrays(second), strict=True)
    gap = _norm([a.astype(jnp.float32) - b for a, b in pairs])
    return gap / max(_norm(first) * _norm(second), 1e-30) ** 0.5


def _arrays(params: Params) -> list[jax.Array]:
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
