"""Superposition: fold tickets into a running mean, prune the mean back to its density."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from supjax.allocation import apportion, budget
from supjax.averaging import mean_leaf, running_mean
from supjax.checks import check_choice, check_density, check_fraction
from supjax.masks import (
    apply_masks,
    check_masks,
    count_active,
    count_maskable,
    nonzero_masks,
    path_str,
)
from supjax.prune_grow import active_counts as layer_active_counts
from supjax.prune_grow import layer_sizes
from supjax.selection import largest_weight_masks
from supjax.tickets import check_same_tickets
from supjax.types import LeafFilter, Masks, Params, PyTree, Scalar, Ticket

AVERAGES = ("cia", "caa", "cima")
"""Averaging rules: connection-independent, connection-aware, moving average."""

SCOPES = ("global", "layer")
"""Where the magnitude threshold of prune-back holds."""


def superpose(
    tickets: Sequence[Ticket] | Sequence[Params] | Ticket | Params,
    *,
    density: float | None = None,
    average: str = "cia",
    weights: Sequence[float] | None = None,
    scope: str = "global",
    beta: float = 0.5,
    filter_fn: LeafFilter | None = None,
) -> Ticket:
    """Superpose tickets into one sparse network of the same density.

    Folds one ticket at a time, `avg_t = avg_{t-1} + (ticket_t - avg_{t-1}) / t` with an absent
    connection counting as 0, and prunes the average by magnitude after each fold. Batch-norm
    statistics are averaged along; `recompute_batch_stats` re-estimates them instead.

    Args:
      tickets: a list or tuple of `Ticket`s, or of plain params pytrees (masks are then read off
        the non-zeros of maskable weights); or one `Ticket` or params pytree whose leaves are
        stacked along a leading axis. The first is what the running mean starts from: pass the
        network at the end of the normal phase there to include it, as the paper's tables do.
      density: share of maskable weights to keep, in (0, 1]. None keeps as many weights as the
        tickets have (the rounded mean, should they differ).
      average: "cia" (default) as above; "caa" divides each weight's sum by the number of tickets
        in which it is active; "cima" is `beta avg + (1 - beta) ticket`.
      weights: one positive number a ticket, its weight in the mean; None for all equal. Not with
        "cima", whose weights are beta's.
      scope: "global" prunes by one threshold over all maskable weights, "layer" keeps the tickets'
        layer densities.
      beta: decay of "cima", in [0, 1].
      filter_fn: which leaves of plain params pytrees are sparse.

    Returns:
      The superposed network. It has exactly `round(density * N)` active weights unless the
      average has fewer non-zeros; its mask is exactly its non-zeros. Of equal magnitudes the
      lowest index stays; an infinity counts as the largest magnitude, and NaN is pruned first.

    Raises:
      ValueError: if there is no ticket, an option is unknown, a number is out of range, or
        tickets differ in structure or shape (the path is named).
      TypeError: if weights are not floating-point.

    Source: Yin et al., *Superposing Many Tickets into One*, UAI 2022, section 3.

    >>> import jax.numpy as jnp
    >>> first = {"w": jnp.array([[4.0, 2.0, 0.0, 0.0]])}
    >>> second = {"w": jnp.array([[2.0, 0.0, 3.0, 0.0]])}
    >>> superpose([first, second]).params["w"]
    Array([[3. , 0. , 1.5, 0. ]], dtype=float32)
    """
    check_options(density, average, scope, beta)
    members = _as_tickets(tickets, filter_fn)
    shares = _check_weights(weights, len(members), average)
    if density is None:
        counts = jnp.stack([layer_active_counts(t.masks) for t in members])
        layers = _rounded_mean(counts, axis=0)
        keep: Any = _rounded_mean(jnp.sum(counts, axis=1), axis=0)
    else:
        keep = budget(density, count_maskable(members[0].masks))
        layers = _layer_budgets(keep, members[0].masks)
    result = members[0]
    active = initial_active(result, average, shares[0])
    total = shares[0]
    for ticket, weight in zip(members[1:], shares[1:], strict=True):
        share = _share(total, weight, average, beta)
        folded = _fold(result, ticket, share, weight, active, keep, layers, average, scope)
        active = next_active(active, folded, ticket, weight)
        result, total = folded, total + weight
    if len(members) == 1:
        result = _prune_back(result, keep, layers, scope)
    return result


def superpose_step(
    running: Ticket,
    ticket: Ticket,
    count: Scalar,
    *,
    density: float | None = None,
    average: str = "cia",
    weight: float = 1.0,
    scope: str = "global",
    beta: float = 0.5,
    active: PyTree | None = None,
) -> Ticket:
    """Fold one ticket into the running superposition and prune back: O(1) tickets in memory.

    Args:
      running: the superposition so far; at first the first member itself.
      ticket: the next ticket.
      count: how many tickets `running` holds (with weights, their total weight); may be traced.
      density: share of maskable weights to keep; None keeps as many as `ticket` has.
      average: see `superpose`.
      weight: weight of `ticket`.
      scope: see `superpose`.
      beta: see `superpose`.
      active: for "caa" only: how often each weight of `running` was active, from
        `initial_active` and then `next_active`.

    Returns:
      The new superposition, a `Ticket`. Pure and jit-able.

    Raises:
      ValueError: as `superpose`; also if "caa" gets no `active` or another rule gets one.

    Source: Yin et al., UAI 2022, section 3 and the ablation of averaging rules.

    >>> import jax.numpy as jnp
    >>> make = lambda *w: Ticket({"w": jnp.array([w])}, {"w": jnp.array([w]) != 0})
    >>> superpose_step(make(4.0, 2.0, 0.0), make(2.0, 0.0, 3.0), 1).params["w"]
    Array([[3. , 0. , 1.5]], dtype=float32)
    """
    check_options(density, average, scope, beta)
    check_same_tickets(running, ticket, "ticket")
    if not isinstance(weight, jax.core.Tracer) and not 0 < weight < math.inf:
        raise ValueError(f"weight must be a positive number, got {weight}")
    if (active is None) == (average == "caa"):
        raise ValueError("active= goes with average='caa', and that rule needs it")
    if density is None:
        keep = count_active(ticket.masks)
        layers = layer_active_counts(ticket.masks)
    else:
        keep = budget(density, count_maskable(ticket.masks))
        layers = _layer_budgets(keep, ticket.masks)
    share = _share(count, weight, average, beta)
    return _fold(running, ticket, share, weight, active, keep, layers, average, scope)


def initial_active(first: Ticket, average: str, weight: float = 1.0) -> PyTree | None:
    """Return the activity counts of the first member: `weight * m` for "caa", None otherwise.

    Args:
      first: the first member of a superposition.
      average: see `superpose`.
      weight: weight of the member.

    Returns:
      The tree of the masks with float32 counts, or None.

    >>> import jax.numpy as jnp
    >>> first = Ticket({"w": jnp.array([[3.0, 0.0]])}, {"w": jnp.array([[True, False]])})
    >>> initial_active(first, "caa")["w"].tolist()
    [[1.0, 0.0]]
    """
    if average != "caa":
        return None
    return jax.tree.map(lambda m: weight * m.astype(jnp.float32), first.masks)


def next_active(
    active: PyTree | None, folded: Ticket, ticket: Ticket, weight: float = 1.0
) -> PyTree | None:
    """Return the activity counts after a fold: `a' = (a + weight * m_ticket) * m_folded`.

    A weight that was pruned back is forgotten.

    Args:
      active: the counts before, None for rules that need none.
      folded: the superposition after the fold.
      ticket: the ticket that was folded in.
      weight: its weight.

    Returns:
      The counts to pass to the next `superpose_step`.

    >>> import jax.numpy as jnp
    >>> make = lambda *w: Ticket({"w": jnp.array([w])}, {"w": jnp.array([w]) != 0})
    >>> active = {"w": jnp.array([[1.0, 1.0, 0.0]])}
    >>> next_active(active, make(3.0, 0.0, 3.0), make(2.0, 0.0, 3.0))["w"].tolist()
    [[2.0, 0.0, 1.0]]
    """
    if active is None:
        return None
    return jax.tree.map(
        lambda a, f, t: jnp.where(f, a + weight * t.astype(a.dtype), 0.0),
        active,
        folded.masks,
        ticket.masks,
    )


def check_options(density: float | None, average: str, scope: str, beta: float) -> None:
    """Check the static options that `superpose` and `superpose_step` share."""
    if density is not None:
        check_density(density)
    check_choice(average, "average", AVERAGES)
    check_choice(scope, "scope", SCOPES)
    check_fraction(beta, "beta")


def _share(count: Scalar, weight: Scalar, average: str, beta: float) -> Any:
    """Return the share of a ticket of this weight in its mean with `count` others."""
    return 1 - beta if average == "cima" else weight / (count + weight)


@partial(jax.jit, static_argnames=("average", "scope"))
def _fold(
    running: Ticket,
    ticket: Ticket,
    share: Scalar,
    weight: Scalar,
    active: PyTree | None,
    keep: Any,
    layers: Any,
    average: str,
    scope: str,
) -> Ticket:
    """Return the average of `running` and `ticket`, pruned back; one program for all of it.

    `share` is that of the ticket where connections do not matter; the others are as for
    `superpose_step` and `_prune_back`.
    """
    stats = running_mean(running.batch_stats, ticket.batch_stats, share)

    def aware(old: Any, new: Any, seen: Any, mask: Any) -> Any:
        if mask is None:
            return mean_leaf(old, new, share)
        mixed = mean_leaf(old, new, weight / (seen + weight))
        return jnp.where(mask, mixed, old)

    if average == "caa":
        params = jax.tree.map(aware, running.params, ticket.params, active, ticket.masks)
    else:
        params = running_mean(running.params, ticket.params, share)
    return _prune_back(Ticket(params, ticket.masks, stats), keep, layers, scope)


def _prune_back(mean: Ticket, keep: Any, layers: Any, scope: str) -> Ticket:
    """Keep the largest magnitudes of the mean; a zero is never active.

    `keep` is the budget in all, `layers` the one of every layer; `scope` says which holds.
    """
    weights = jax.tree.map(lambda w, m: None if m is None else w, mean.params, mean.masks)
    if scope == "global":
        masks = largest_weight_masks(weights, keep)
    else:
        budgets = iter(jnp.asarray(layers))
        masks = jax.tree.map(lambda w: largest_weight_masks(w, next(budgets)), weights)
    return Ticket(apply_masks(mean.params, masks), masks, mean.batch_stats)


def _layer_budgets(keep: int, masks: Masks) -> jax.Array:
    """Return a budget for every layer, in proportion to its active weights."""
    active = layer_active_counts(masks)
    return apportion(keep, active.astype(jnp.float32), layer_sizes(masks))


def _rounded_mean(counts: jax.Array, axis: int) -> jax.Array:
    size = counts.shape[axis]
    whole = jnp.sum(counts // size, axis=axis)
    rest = jnp.sum(counts % size, axis=axis)
    return whole + (2 * rest + size) // (2 * size)


def _as_tickets(tickets: Any, filter_fn: LeafFilter | None) -> list[Ticket]:
    """Return a list of tickets, whatever form they came in, after checking that they agree."""
    if isinstance(tickets, list) or (
        isinstance(tickets, tuple) and not hasattr(tickets, "_fields")
    ):
        members = list(tickets)
    else:
        members = _unstack(tickets)
    if not members:
        raise ValueError("superpose needs at least one ticket, got none")
    result: list[Ticket] = []
    for i, member in enumerate(members):
        if not isinstance(member, Ticket):
            member = Ticket(member, nonzero_masks(member, filter_fn))
        if not jax.tree.leaves(member.masks):
            raise ValueError(f"ticket {i} has no sparse weight to prune")
        check_masks(member.params, member.masks)
        for path, leaf in jax.tree_util.tree_flatten_with_path(member.params)[0]:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"tickets must hold floating-point weights, got {leaf.dtype} "
                    f"at {path_str(path)!r} of ticket {i}"
                )
        check_same_tickets(result[0] if result else member, member, f"ticket {i}")
        result.append(member)
    return result


def _unstack(stacked: Any) -> list[Any]:
    """Return the members of a tree that is stacked along a leading axis."""
    leaves = jax.tree.leaves(stacked)
    lengths = sorted({leaf.shape[0] if leaf.ndim else -1 for leaf in leaves})
    if len(lengths) != 1 or lengths[0] < 0:
        raise ValueError(
            "stacked tickets need one common leading axis in all leaves, got lengths "
            f"{['none' if n < 0 else n for n in lengths]}"
        )
    return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(lengths[0])]


def _check_weights(weights: Sequence[float] | None, count: int, average: str) -> list[float]:
    if weights is None:
        return [1.0] * count
    if average == "cima":
        raise ValueError("weights do not go with average='cima': beta sets its weights")
    if len(weights) != count or not all(0 < w < math.inf for w in weights):
        raise ValueError(f"weights must be {count} positive numbers, got {list(weights)}")
    return [float(w) for w in weights]
