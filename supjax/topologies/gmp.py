"""Gradual magnitude pruning, and the ramp that GraNet shares."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from supjax.allocation import budget, ceil_share
from supjax.checks import check_count
from supjax.masks import count_maskable
from supjax.prune_grow import advance, magnitude, prune_globally
from supjax.schedules import constant_fraction, cubic_density_ramp
from supjax.topologies.engine import method, random_start, update_steps
from supjax.types import (
    AxesFn,
    LeafFilter,
    Masks,
    Params,
    Scalar,
    TopologyState,
    TopologyTransform,
)


@method
def gmp(
    density: float,
    *,
    ramp_end: int,
    ramp_start: int = 0,
    initial_density: float = 1.0,
    update_every: int = 1000,
    distribution: str = "erk",
    filter_fn: LeafFilter | None = None,
    axes_fn: AxesFn | None = None,
) -> TopologyTransform:
    """Return gradual magnitude pruning: dense start, global magnitude, cubic ramp.

    The first update after `ramp_end` training steps or more reaches `round(density * N)` exactly,
    also when the end is no multiple of the interval; afterwards the masks are fixed. There is no
    grow rule, so an exploration changes nothing but the ramp's progress.

    Args:
      density: final share of kept weights over all maskable ones, in (0, 1].
      ramp_end: training steps after which the ramp ends.
      ramp_start: training steps after which the ramp begins.
      initial_density: density at the start, in [density, 1].
      update_every: steps between prunings.
      distribution: layer densities of the start if it is not dense.
      filter_fn: which leaves are sparse.
      axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults.

    Returns:
      A `TopologyTransform`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Zhu and Gupta, *To prune, or not to prune*, 2017; Gale et al., 2019.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> method, params = gmp(0.5, ramp_end=100), {"w": jnp.ones((2, 2))}
    >>> state = method.init(jax.random.key(0), params)
    >>> state = method.update(jax.random.key(1), params, state, params, step=99)
    >>> supjax.density(state.masks)
    0.5
    """
    ramp = density_ramp(density, initial_density, ramp_start, ramp_end)
    due = update_steps(update_every, start=ramp_start, stop=ramp_stop(ramp_end, update_every))

    def update(
        key: Any,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Scalar,
        *,
        drop_fraction: Scalar | None = None,
    ) -> TopologyState:
        del key, grads, drop_fraction
        return advance(state, ramp(state.masks, params, step))

    init = random_start(initial_density, distribution, filter_fn, axes_fn)
    return TopologyTransform(
        init,
        update,
        due,
        drop_fraction=constant_fraction(0.0),
        grows=False,
        density_at=cubic_density_ramp(initial_density, density, ramp_start, ramp_end),
        dense_gradient="never",
        axes_fn=axes_fn,
    )


def density_ramp(
    density: float, initial_density: float, start: int, end: int
) -> Callable[[Masks, Params, Scalar], Masks]:
    """Return `(masks, params, step) -> masks` pruned by global magnitude to the ramp's density.

    An update at step i comes after `i + 1` training steps, and that is its time on the ramp.
    From `end` on the count is exactly `round(density * N)`; before, the ramp's density is
    resolved to one part in a million.
    """
    check_count(start, "ramp_start", least=0)
    check_count(end, "ramp_end", least=start + 1)
    schedule = cubic_density_ramp(initial_density, density, start, end)

    def prune(masks: Masks, params: Params, step: Scalar) -> Masks:
        done = jnp.asarray(step) + 1
        size = count_maskable(masks)
        final = budget(density, size)
        on_the_way = jnp.maximum(ceil_share(schedule(done), size), final)
        keep = jnp.where(done >= end, final, on_the_way)
        return prune_globally(masks, magnitude(params, masks), keep)

    return prune


def ramp_stop(end: int, update_every: int) -> int:
    """Return the first step that needs no update any more: the target is reached just before it.

    >>> ramp_stop(100, 50), ramp_stop(101, 50)
    (100, 150)
    """
    check_count(update_every, "update_every")
    return -(-end // update_every) * update_every
