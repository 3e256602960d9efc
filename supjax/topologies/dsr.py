"""DSR: one adaptive threshold for all layers, random growth where weights survived."""

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from supjax.allocation import apportion, ceil_share
from supjax.axes import Stacks
from supjax.checks import check_fraction
from supjax.prune_grow import (
    active_counts,
    advance,
    grow_largest,
    layer_sizes,
    magnitude,
    prune_globally,
    random_scores,
)
from supjax.topologies.engine import Shared, method, periodic
from supjax.types import Params, Scalar, TopologyState, TopologyTransform


class Threshold(NamedTuple):
    """The adaptive threshold and the drop fraction for which it was last used."""

    value: jax.Array  # shape (), float32; 0 while unset
    fraction: jax.Array  # shape (), float32


@method
def dsr(density: float, *, tolerance: float = 0.1, **shared: Unpack[Shared]) -> TopologyTransform:
    """Return dynamic sparse reparameterization: global threshold H, growth by survivors.

    All active weights with `|w| < H` are dropped, in whatever layer. If more than
    `(1 + tolerance)` times the wanted number went, H is halved; if fewer than `(1 - tolerance)`
    times, doubled. As many weights are grown at random, layer l getting its share
    `R_l / sum R` of the R surviving weights; what does not fit goes to the other layers.
    At the first update, and whenever the wanted fraction changes by more than the tolerance
    (an exploration) or is 0, exactly the wanted number is dropped and H is set to match. So it is
    when H has become 0, which no doubling could lift.

    Args:
      density: share of kept weights over all maskable ones, in (0, 1].
      tolerance: delta, in [0, 1].
      **shared: see `Shared`.

    Returns:
      A `TopologyTransform`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Mostafa and Wang, *Parameter Efficient Training of Deep CNNs by Dynamic Sparse
    Reparameterization*, ICML 2019, algorithm 1.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> method, params = dsr(0.5), {"w": jnp.ones((2, 4))}
    >>> state = method.init(jax.random.key(0), params)
    >>> state = method.update(jax.random.key(1), params, state, params, step=0)
    >>> supjax.density(state.masks)
    0.5
    """
    check_fraction(tolerance, "tolerance")

    def unset(params: Params, masks: Any) -> Threshold:
        del params, masks
        return Threshold(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    def move(
        key: jax.Array,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Scalar,
        rate: Scalar,
        stacks: Stacks,
    ) -> TopologyState:
        del grads, step
        wanted = jnp.asarray(rate, jnp.float32)
        last: Threshold = state.extra
        active = active_counts(state.masks, stacks)
        total = jnp.sum(active)
        target = ceil_share(wanted, total)
        scores = magnitude(params, state.masks)

        below = _count_below(scores, state.masks, last.value)
        moved = jnp.abs(wanted - last.fraction) > tolerance * jnp.abs(last.fraction)
        fresh = (last.value == 0) | (target == 0) | moved
        dropped = jnp.where(fresh, target, below)
        kept = prune_globally(state.masks, scores, total - dropped)
        survivors = active_counts(kept, stacks)

        room = layer_sizes(kept, stacks) - survivors
        counts = apportion(dropped, survivors.astype(jnp.float32), room)
        masks = grow_largest(kept, random_scores(key, kept), counts, stacks)

        factor = jnp.where(below > (1 + tolerance) * target, 0.5, 1.0)
        factor = jnp.where(below < (1 - tolerance) * target, 2.0, factor)
        value = jnp.where(fresh, _smallest(scores, kept), last.value * factor)
        return advance(state, masks, Threshold(value, wanted))

    return periodic(density, move, dense_gradient="never", first_extra=unset, **shared)


def _count_below(scores: Any, masks: Any, threshold: jax.Array) -> jax.Array:
    counts = [
        jnp.sum(m & (s.astype(jnp.float32) < threshold), dtype=jnp.int32)
        for s, m in zip(jax.tree.leaves(scores), jax.tree.leaves(masks), strict=True)
    ]
    return jnp.sum(jnp.stack(counts))


def _smallest(scores: Any, kept: Any) -> jax.Array:
    """Return the smallest kept score: with it as threshold, what was dropped lies below."""
    lows = [
        jnp.min(jnp.where(m, s.astype(jnp.float32), jnp.inf), initial=jnp.inf)
        for s, m in zip(jax.tree.leaves(scores), jax.tree.leaves(kept), strict=True)
    ]
    low = jnp.min(jnp.stack(lows))
    return jnp.where(jnp.isfinite(low), low, 0.0)
