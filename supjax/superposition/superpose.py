"""Superpose a list of tickets, or fold one more into a running superposition."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from supjax.checks import check_choice, check_density, check_fraction, listed
from supjax.prune_grow import active_counts as layer_active_counts
from supjax.superposition.engine import SCOPES, SUPERPOSITIONS, Budget, budget_of, layers_of
from supjax.superposition.members import as_tickets
from supjax.tickets import on_own_nodes
from supjax.trees import rehang
from supjax.types import (
    AxesFn,
    LeafFilter,
    PyTree,
    Scalar,
    Superposition,
    SuperpositionState,
    Ticket,
)


def superpose(
    tickets: Any,
    *,
    density: float | None = None,
    average: str | Superposition = "cia",
    weights: Sequence[float] | None = None,
    scope: str = "global",
    beta: float = 0.5,
    filter_fn: LeafFilter | None = None,
    axes_fn: AxesFn | None = None,
) -> Ticket:
    """Superpose tickets into one sparse network of the same density.

    Folds one ticket at a time, `avg_t = avg_{t-1} + (ticket_t - avg_{t-1}) / t` with an absent
    connection counting as 0, and prunes the average by magnitude after each fold. Batch-norm
    statistics are averaged along; `recompute_batch_stats` re-estimates them instead.

    Args:
      tickets: a list, tuple, generator or any other collection of members, or a dict of them. A
        member is a `Ticket`, a params pytree, a training state (`TrainState`, or flax's with an
        optimizer of `sparsify`), or the path of a ticket file; arrays may be NumPy's or lie on
        several devices. Leaves are matched by path. Or one `Ticket` or params pytree whose leaves
        are stacked along a leading axis. The first member is what the running mean starts from:
        pass the network at the end of the normal phase there to include it, as the paper's tables
        do.

        Masks of plain params are read off the non-zeros of maskable weights; tickets carry theirs,
        so that a weight just grown, which is still zero, is not lost. Without a filter, leaves
        that are all non-zero in all members stay dense (unless every maskable leaf is); beside
        tickets, those that are dense there. Under `jax.jit`, where no value is known, the filter
        alone decides.

        A dict holds members if its values are tickets, states or files, or if there are several
        and they are trees of the same paths and shapes; otherwise it is one stacked tree.
      density: share of maskable weights to keep, in (0, 1]. None keeps as many weights as the
        tickets have (the rounded mean, should they differ).
      average: "cia" (default) as above; "caa" divides each weight's sum by the number of tickets
        in which it is active; "cima" is `beta avg + (1 - beta) ticket`; any other name in
        `SUPERPOSITIONS`; or a `Superposition`, which brings its own density and scope.
      weights: one positive number a ticket, its weight in the mean; None for all equal. Not with
        "cima", whose weights are beta's.
      scope: "global" prunes by one threshold over all maskable weights, "layer" keeps the tickets'
        layer densities; of a stack, those of every slice.
      beta: decay of "cima", in [0, 1].
      filter_fn: which leaves of plain params are sparse.
      axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults; for scope "layer".

    Returns:
      The superposed network, on the nodes and the devices of the first member. It has exactly
      `round(density * N)` active weights unless the average has fewer non-zeros; its mask is
      exactly its non-zeros. Of equal magnitudes the lowest index stays; an infinity counts as the
      largest magnitude, and NaN is pruned first.

    Raises:
      ValueError: if there is no ticket, an option is unknown, a number is out of range, tickets
        differ in paths, shapes or dtypes (the path is named), or a dict could be members as well
        as stacked.
      TypeError: if weights are not floating-point, or something else is handed over.
      OSError: if a ticket file cannot be read.

    Warns:
      UserWarning: if non-zero counts of plain params differ from each other, or from the density
        that was asked for (but for networks that are all dense).

    Source: Yin et al., *Superposing Many Tickets into One*, UAI 2022, section 3.

    >>> import jax.numpy as jnp
    >>> first = {"w": jnp.array([[4.0, 2.0, 0.0, 0.0]])}
    >>> second = {"w": jnp.array([[2.0, 0.0, 3.0, 0.0]])}
    >>> superpose([first, second]).params["w"]
    Array([[3. , 0. , 1.5, 0. ]], dtype=float32)
    """
    check_options(density, average, scope, beta, axes_fn)
    members = as_tickets(tickets, filter_fn, density)
    allowed = common_budget(members, density, scope, axes_fn)
    rule = rule_of(average, allowed, scope, beta, axes_fn)
    shares = _weight_arguments(weights, len(members), rule, average)
    state = rule.init(members[0], *shares[0])
    for ticket, share in zip(members[1:], shares[1:], strict=True):
        state = rule.fold(state, ticket, *share)
    return rule.result(state)


def superpose_step(
    running: Ticket,
    ticket: Ticket,
    count: Scalar,
    *,
    density: float | None = None,
    average: str | Superposition = "cia",
    weight: float = 1.0,
    scope: str = "global",
    beta: float = 0.5,
    active: PyTree | None = None,
    axes_fn: AxesFn | None = None,
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
      active: for rules with a state of their own only; for "caa" how often each weight of
        `running` was active. `make_superposition(average)` keeps it by itself.
      axes_fn: see `superpose`.

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
    check_options(density, average, scope, beta, axes_fn)
    if not isinstance(weight, jax.core.Tracer) and not 0 < weight < math.inf:
        raise ValueError(f"weight must be a positive number, got {weight}")
    rule = rule_of(average, density, scope, beta, axes_fn)
    running = on_own_nodes(running)
    first = jax.eval_shape(rule.init, running)
    if not isinstance(first, SuperpositionState):
        raise TypeError("a rule with a state of its own kind goes by its init, fold and result")
    if (active is None) == bool(jax.tree.leaves(first.extra)):
        raise ValueError(
            "active= goes with the rules that have it, such as 'caa', and they need it"
        )
    extra = () if active is None else rehang(active, first.extra, ("active", "that of running"))
    state = SuperpositionState(running, 2, count, extra)
    return rule.fold(state, ticket, *((weight,) if rule.weighted else ())).ticket


def check_options(
    density: float | None,
    average: str | Superposition,
    scope: str,
    beta: float,
    axes_fn: AxesFn | None = None,
) -> None:
    """Check the static options that `superpose` and `superpose_step` share."""
    if density is not None:
        check_density(density)
    check_choice(scope, "scope", SCOPES)
    check_fraction(beta, "beta")
    if not isinstance(average, Superposition):
        check_choice(average, "average", SUPERPOSITIONS)
    elif (density, scope, beta, axes_fn) != (None, "global", 0.5, None):
        raise ValueError(
            "density, scope, beta and axes_fn are arguments of the rule that average= brings"
        )


def rule_of(
    average: str | Superposition,
    density: float | Budget | None,
    scope: str,
    beta: float,
    axes_fn: AxesFn | None,
) -> Superposition:
    """Return a rule given by name with those of the options that it takes, or the given one."""
    if isinstance(average, Superposition):
        return average
    taken = inspect.signature(SUPERPOSITIONS[average]).parameters
    offered = {"density": density, "scope": scope, "beta": beta, "axes_fn": axes_fn}
    return SUPERPOSITIONS[average](**{k: v for k, v in offered.items() if k in taken})


def common_budget(
    members: Sequence[Ticket], density: float | None, scope: str, axes_fn: AxesFn | None
) -> Budget:
    """Return one budget for all folds: a share's, or what the tickets have on average."""
    layers = layers_of(members[0].params, scope, axes_fn)
    if density is not None:
        return budget_of(density, members[0], layers)
    stacks = dict(layers.stacks)
    counts = jnp.stack([layer_active_counts(t.masks, stacks) for t in members])
    return Budget(_rounded_mean(jnp.sum(counts, axis=1), axis=0), _rounded_mean(counts, axis=0))


def _rounded_mean(counts: jax.Array, axis: int) -> jax.Array:
    size = counts.shape[axis]
    whole = jnp.sum(counts // size, axis=axis)
    rest = jnp.sum(counts % size, axis=axis)
    return whole + (2 * rest + size) // (2 * size)


def _weight_arguments(
    weights: Sequence[float] | None,
    count: int,
    rule: Superposition,
    average: str | Superposition,
) -> list[tuple[float, ...]]:
    """Return what `init` and `fold` get beside every ticket."""
    if weights is None:
        return [()] * count
    if not rule.weighted:
        name = repr(average) if isinstance(average, str) else "this rule"
        raise ValueError(f"weights do not go with average={name}: its members have none")
    if len(weights) != count or not all(0 < w < math.inf for w in weights):
        raise ValueError(f"weights must be {count} positive numbers, got {listed(weights)}")
    return [(float(w),) for w in weights]
