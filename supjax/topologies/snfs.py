"""SNFS: sparse networks from scratch, layers share weights by their mean momentum."""

from typing import Unpack

import jax
import jax.numpy as jnp

from supjax.allocation import apportion, ceil_share
from supjax.axes import Stacks, to_layers
from supjax.checks import check_fraction
from supjax.prune_grow import (
    active_counts,
    advance,
    drop_smallest,
    grow_largest,
    layer_sizes,
    magnitude,
    stacked_leaves,
)
from supjax.topologies.engine import Shared, method, periodic
from supjax.types import Masks, Params, PyTree, Scalar, TopologyState, TopologyTransform


@method
def snfs(density: float, *, momentum: float = 0.9, **shared: Unpack[Shared]) -> TopologyTransform:
    """Return SNFS: drop by `|w|`, share the growth by mean momentum, grow by `|momentum|`.

    Layer l grows `K * M_l / sum M` weights, with K all dropped weights and M_l the mean of
    `|momentum|` over the layer's active weights; what does not fit goes to the other layers.
    The momentum is a moving average of the dense gradient, `beta v + (1 - beta) g`, kept by the
    method itself (the optimizer's momentum is zero on inactive weights): one extra float per
    maskable weight, and a dense gradient at every step.

    Args:
      density: share of kept weights over all maskable ones, in (0, 1].
      momentum: beta, in [0, 1].
      **shared: see `Shared`.

    Returns:
      A `TopologyTransform` with an `observe` function.

    Raises:
      ValueError: if an argument is out of range.

    Source: Dettmers and Zettlemoyer, *Sparse Networks from Scratch*, 2019, section 3.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> method, params = snfs(0.5), {"w": jnp.ones((2, 2))}
    >>> state = method.observe(params, method.init(jax.random.key(0), params))
    >>> round(float(state.extra["w"][0, 0]), 3)
    0.1
    """
    check_fraction(momentum, "momentum")

    def zeros(params: Params, masks: Masks) -> PyTree:
        return jax.tree.map(lambda w, m: None if m is None else jnp.zeros_like(w), params, masks)

    def observe(grads: Params, state: TopologyState) -> TopologyState:
        average = jax.tree.map(
            lambda g, v: None if v is None else momentum * v + (1 - momentum) * g.astype(v.dtype),
            grads,
            state.extra,
        )
        return state._replace(extra=average)

    def move(
        key: jax.Array,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Scalar,
        rate: Scalar,
        stacks: Stacks,
    ) -> TopologyState:
        del key, grads, step
        active = active_counts(state.masks, stacks)
        dropped = ceil_share(rate, active)
        kept = drop_smallest(state.masks, magnitude(params, state.masks), dropped, stacks)
        room = layer_sizes(state.masks, stacks) - (active - dropped)
        scores = magnitude(state.extra, state.masks)
        totals = [
            jax.vmap(jnp.sum)(to_layers(jnp.where(m, s.astype(jnp.float32), 0.0), stack))
            for s, (m, stack) in zip(
                jax.tree.leaves(scores), stacked_leaves(state.masks, stacks), strict=True
            )
        ]
        means = jnp.concatenate(totals) / jnp.maximum(active, 1)
        counts = apportion(jnp.sum(dropped), means, room)
        return advance(state, grow_largest(kept, scores, counts, stacks), state.extra)

    return periodic(
        density, move, dense_gradient="always", first_extra=zeros, observe=observe, **shared
    )
