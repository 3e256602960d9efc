"""Explorations for methods that have no grow rule of their own."""

import jax

from supjax.axes import stack_axes
from supjax.prune_grow import advance, magnitude, prune_and_grow
from supjax.types import Params, Scalar, TopologyState, TopologyTransform


def exploring(topology: TopologyTransform) -> TopologyTransform:
    """Let a method without a grow rule explore: drop by `|w|`, grow by `|gradient|`.

    After the method's own update, `drop_fraction` of every layer's weights moves by RigL's rule.
    A method with fixed masks has the drop fraction 0 of its own, so only an exploration, which
    passes one, moves anything.

    Args:
      topology: a method whose `grows` is False: static, SNIP, GraSP, SynFlow or GMP.

    Returns:
      The method with explorations.

    Source: the authors' code of Sup-tickets explores this way whatever the base method is, and so
    got the published numbers of static and SNIP.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> method = exploring(supjax.make_topology("static", density=0.5))
    >>> params = {"w": jnp.arange(8.0).reshape(2, 4)}
    >>> state = method.init(jax.random.key(0), params)
    >>> own = method.update(jax.random.key(1), params, state, params, 0)
    >>> moved = method.update(jax.random.key(1), params, state, params, 0, drop_fraction=1.0)
    >>> supjax.iou(own.masks, state.masks), moved.masks["w"].tolist()[1]
    (1.0, [True, True, True, True])
    """

    def update(
        key: jax.Array,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Scalar,
        *,
        drop_fraction: Scalar | None = None,
    ) -> TopologyState:
        own = topology.update(key, grads, state, params, step, drop_fraction=drop_fraction)
        rate = topology.drop_fraction(step) if drop_fraction is None else drop_fraction
        drop, grow = magnitude(params, own.masks), magnitude(grads, own.masks)
        stacks = stack_axes(params, topology.axes_fn)
        return advance(own, prune_and_grow(own.masks, drop, grow, rate, stacks), own.extra)

    return topology._replace(update=update, grows=True)
