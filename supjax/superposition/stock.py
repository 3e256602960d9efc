"""Stock: between the mean and the first member, as far as the tickets' directions agree."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from supjax.superposition.averaging import running_mean
from supjax.superposition.engine import (
    Budget,
    Density,
    Layers,
    averaging_rule,
    budget_of,
    layers_of,
    prune_back,
    pruned_mean,
)
from supjax.tickets import on_nodes_of, on_own_nodes
from supjax.trees import map_named
from supjax.types import AxesFn, Params, PyTree, Scalar, Superposition, SuperpositionState, Ticket


class Sums(NamedTuple):
    """What `stock` remembers of its members, whatever their number; three trees of the params.

    Attributes:
      first: the weights `w_0`.
      differences: `sum_i d_i` with `d_i = w_i - w_0`, float32 or wider.
      directions: `sum_i d_i / |d_i|`; a layer that did not move adds nothing.
      moved: how many members moved, a number a layer.

    >>> Sums._fields
    ('first', 'differences', 'directions', 'moved')
    """

    first: Params
    differences: PyTree
    directions: PyTree
    moved: PyTree


@averaging_rule
def stock(
    *, density: Density = None, scope: str = "global", axes_fn: AxesFn | None = None
) -> Superposition:
    """Return Model Stock: `w = t mean_i(w_i) + (1 - t) w_0` in every layer, pruned back.

    `t = N c / (1 + (N - 1) c)` with N members after the first and c the mean cosine between two of
    their differences `w_i - w_0`: the point of their plane that is nearest to the centre around
    which they scatter. Differences of one direction give the mean of `w_1 .. w_N`, unrelated ones
    `w_0`, and c = 1/2 the mean of all N + 1, which is `cia` without its prunings between. c is held
    in [0, 1]; one difference has no angle and counts as c = 1/2.

    `w_0` is the first member: the network at the end of the normal phase, or, where that is not
    included, the first ticket. The mean is pruned once, from the sums, not after every fold. No
    pair of members has to be in memory, as `|sum_i d_i / |d_i||^2` is N plus the sum of all
    cosines. A layer is a leaf, or one slice of a stack of layers. Batch-norm statistics are
    averaged over all members; better re-estimate them.

    Args:
      density: see `cia`.
      scope: see `cia`.
      axes_fn: see `cia`.

    Returns:
      A `Superposition`, whose members have no weights.

    Raises:
      ValueError: if density or scope is not allowed.

    Source: Jang et al., *Model Stock: all we need is just a few fine-tuned models*, ECCV 2024,
    section 3.

    >>> import jax.numpy as jnp
    >>> import supjax
    >>> make = lambda *w: supjax.Ticket({"w": jnp.array([w])}, {"w": jnp.array([w]) != 0})
    >>> rule = stock()  # from (4, 0) the others moved by (0, 5) and (-4, 3): c = 0.6, t = 0.75
    >>> state = rule.fold(rule.fold(rule.init(make(4.0, 0.0)), make(4.0, 5.0)), make(0.0, 3.0))
    >>> [round(float(w), 3) for w in state.ticket.params["w"][0]]  # the mean is (2, 4)
    [0.0, 3.0]
    """
    base = pruned_mean(density=density, scope=scope, axes_fn=axes_fn, weighted=False)

    def init(ticket: Ticket) -> SuperpositionState:
        ticket = on_own_nodes(ticket)
        each = layers_of(ticket.params, "layer", axes_fn)
        return SuperpositionState(ticket, 1, 1.0, _no_sums(ticket.params, each))

    def fold(state: SuperpositionState, ticket: Ticket) -> SuperpositionState:
        ticket = on_nodes_of(state.ticket, ticket, "ticket")
        layers = layers_of(ticket.params, scope, axes_fn)
        each = layers_of(ticket.params, "layer", axes_fn)
        folded, sums = _fold(state, ticket, budget_of(density, ticket, layers), layers, each)
        return SuperpositionState(folded, state.members + 1, state.weight + 1.0, sums)

    return Superposition(init, fold, base.result, weighted=False)


def _no_sums(params: Params, each: Layers) -> Sums:
    wide = jax.tree.map(lambda w: jnp.zeros(w.shape, _wide(w)), params)
    stacks = dict(each.stacks)
    none = map_named(lambda path, w: _layer_sums(w, stacks.get(path, ())), wide)
    return Sums(params, wide, wide, none)


def _wide(leaf: Any) -> Any:
    return jnp.promote_types(leaf.dtype, jnp.float32)


def _layer_sums(leaf: jax.Array, stack: tuple[int, ...]) -> jax.Array:
    """Return the sum over every layer of a leaf, in a shape that meets the leaf."""
    axes = tuple(axis for axis in range(leaf.ndim) if axis not in stack)
    return jnp.sum(leaf, axis=axes, keepdims=True)


@partial(jax.jit, static_argnames=("layers", "each"))
def _fold(
    state: SuperpositionState, ticket: Ticket, allowed: Budget, layers: Layers, each: Layers
) -> tuple[Ticket, Sums]:
    """Return the superposition with one more ticket, pruned by `layers`, and sums of `each`."""
    count = state.members  # of the differences, this one included
    stacks = dict(each.stacks)
    old: Sums = state.extra

    def summed(squares: PyTree) -> PyTree:
        return map_named(lambda path, leaf: _layer_sums(leaf, stacks.get(path, ())), squares)

    def difference(first: jax.Array, w: jax.Array) -> jax.Array:
        wide = _wide(w)
        return jnp.where(w == first, 0, w.astype(wide) - first.astype(wide))

    new = jax.tree.map(difference, old.first, ticket.params)
    lengths = jax.tree.map(jnp.sqrt, summed(jax.tree.map(jnp.square, new)))
    units = jax.tree.map(lambda d, n: d / jnp.where(n > 0, n, 1), new, lengths)
    sums = Sums(
        old.first,
        jax.tree.map(jnp.add, old.differences, new),
        jax.tree.map(jnp.add, old.directions, units),
        jax.tree.map(lambda moved, n: moved + (n > 0), old.moved, lengths),
    )
    shares = jax.tree.map(
        lambda square, moved: _share(square, moved, count),
        summed(jax.tree.map(jnp.square, sums.directions)),
        sums.moved,
    )
    params = jax.tree.map(
        lambda first, total, t: (first + t / count * total).astype(first.dtype),
        sums.first,
        sums.differences,
        shares,
    )
    stats = running_mean(state.ticket.batch_stats, ticket.batch_stats, 1 / (count + 1))
    return prune_back(Ticket(params, ticket.masks, stats), allowed, layers), sums


def _share(square: jax.Array, moved: jax.Array, count: Scalar) -> jax.Array:
    """Return t of a layer from `|sum of directions|^2` and how many moved."""
    pairs = jnp.maximum(count * (count - 1), 1)
    cosine = jnp.where(count > 1, (square - moved) / pairs, 0.5)
    cosine = jnp.clip(cosine, 0, 1)
    return count * cosine / (1 + (count - 1) * cosine)
