"""GraNet: gradual pruning with regrowth by gradient."""

from typing import Unpack

import jax

from supjax.axes import Stacks
from supjax.prune_grow import advance, magnitude, prune_and_grow
from supjax.schedules import cubic_density_ramp
from supjax.topologies.engine import Start, method, periodic
from supjax.topologies.gmp import density_ramp, ramp_stop
from supjax.types import Params, Scalar, Schedule, TopologyState, TopologyTransform


@method
def granet(
    density: float,
    *,
    ramp_end: int,
    ramp_start: int = 0,
    initial_density: float = 0.5,
    drop_fraction: float | Schedule = 0.5,
    update_every: int = 1000,
    stop: int | None = None,
    **shared: Unpack[Start],
) -> TopologyTransform:
    """Return GraNet: prune by global magnitude along a cubic ramp, then prune and grow.

    Every update first prunes to the ramp's density `s_t`, then moves `drop_fraction` of every
    layer's weights (drop by `|w|`, grow by `|gradient|`). `initial_density=0.5` starts from an ERK
    network (sparse-to-sparse), 1.0 from the dense one (dense-to-sparse). The authors' code stops
    one point short of the target; here the first update after `ramp_end` training steps or more
    reaches `round(density * N)` exactly.

    Args:
      density: final share of kept weights over all maskable ones, in (0, 1].
      ramp_end: training steps after which the ramp ends.
      ramp_start: training steps after which the ramp begins.
      initial_density: density at the start, in [density, 1].
      drop_fraction: share of every layer's active weights to move, a number or `step -> share`.
      update_every: steps between updates.
      stop: first step without updates, after the ramp's last one; None for never.
      **shared: see `Shared`.

    Returns:
      A `TopologyTransform`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Liu et al., *Sparse Training via Boosting Pruning Plasticity*, NeurIPS 2021, section 4.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> method, params = granet(0.25, ramp_end=100), {"w": jnp.ones((4, 4))}
    >>> state = method.init(jax.random.key(0), params)
    >>> supjax.density(state.masks)
    0.5
    >>> state = method.update(jax.random.key(1), params, state, params, step=99)
    >>> supjax.density(state.masks)
    0.25
    """
    ramp = density_ramp(density, initial_density, ramp_start, ramp_end)
    least = ramp_stop(ramp_end, update_every)
    if stop is not None and stop < least:
        raise ValueError(
            f"stop must be at least {least}, or the density is never reached; got {stop}"
        )

    def move(
        key: jax.Array,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Scalar,
        rate: Scalar,
        stacks: Stacks,
    ) -> TopologyState:
        del key
        pruned = ramp(state.masks, params, step)
        drop, grow = magnitude(params, pruned), magnitude(grads, pruned)
        masks = prune_and_grow(pruned, drop, grow, rate, stacks)
        return advance(state, masks)

    return periodic(
        density,
        move,
        dense_gradient="updates",
        initial_density=initial_density,
        density_at=cubic_density_ramp(initial_density, density, ramp_start, ramp_end),
        drop_fraction=drop_fraction,
        update_every=update_every,
        stop=stop,
        **shared,
    )
