"""What the methods share: first masks, bookkeeping of R_s, and the prune-and-grow binding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from supjax.checks import check_choice, check_count, check_density
from supjax.densities import DISTRIBUTIONS, init_masks
from supjax.masks import dense_masks
from supjax.prune_grow import prune_and_grow
from supjax.schedules import constant_fraction, every
from supjax.types import (
    LeafFilter,
    Masks,
    Params,
    PyTree,
    Scalar,
    Schedule,
    TopologyInitFn,
    TopologyState,
    TopologyTransform,
)


def start(masks: Masks, extra: PyTree = ()) -> TopologyState:
    """Return the state at step 0: what is active now has been active."""
    return TopologyState(masks, jax.tree.map(jnp.copy, masks), extra)


def advance(state: TopologyState, masks: Masks, extra: PyTree = ()) -> TopologyState:
    """Return the state with new masks; what they activate has from now on been active."""
    return TopologyState(masks, jax.tree.map(jnp.logical_or, state.ever_active, masks), extra)


def random_start(density: float, distribution: str, filter_fn: LeafFilter | None) -> TopologyInitFn:
    """Return the init function of random masks with exact counts; checks its arguments."""
    check_density(density)
    check_choice(distribution, "distribution", DISTRIBUTIONS)

    def init(key: jax.Array, params: Params, **extra_args: Any) -> TopologyState:
        del extra_args
        if density == 1:
            return start(dense_masks(params, filter_fn))
        return start(init_masks(key, params, density, distribution, filter_fn))

    return init


def update_steps(
    update_every: int, *, start: int = 0, stop: int | None = None
) -> Callable[[Any], Any]:
    """Return `step -> bool`, which steps carry an update; see `every`."""
    check_count(update_every, "update_every")
    return every(update_every, start=start, stop=stop)


def as_schedule(drop_fraction: float | Schedule) -> Schedule:
    """Return a schedule unchanged and a number as a constant one."""
    return drop_fraction if callable(drop_fraction) else constant_fraction(drop_fraction)


def keep_masks(
    key: jax.Array,
    grads: Params,
    state: TopologyState,
    params: Params,
    step: Scalar,
    *,
    drop_fraction: Scalar | None = None,
) -> TopologyState:
    """Leave the masks as they are: the update of methods whose masks are fixed."""
    del key, grads, params, step, drop_fraction
    return state


ScoreFn = Callable[[jax.Array, Params, Params, Masks], PyTree]
"""`(key, params, grads, masks) -> tree of scores`, `None` on dense leaves."""


def dynamic(
    density: float,
    *,
    drop_scores: ScoreFn,
    grow_scores: ScoreFn,
    drop_fraction: float | Schedule,
    update_every: int,
    stop: int | None,
    distribution: str,
    filter_fn: LeafFilter | None,
) -> TopologyTransform:
    """Bind the prune-and-grow engine to the two scores that make a method.

    Args:
      density: share of kept weights over all maskable ones.
      drop_scores: the smallest among active weights are dropped.
      grow_scores: the largest among inactive places are grown.
      drop_fraction: share of every layer's active weights, a number or `step -> share`.
      update_every: steps between periodic updates.
      stop: first step without periodic updates, None for never.
      distribution: "erk" or "uniform".
      filter_fn: which leaves are sparse.
    """
    fraction = as_schedule(drop_fraction)
    due = update_steps(update_every, stop=stop)

    def update(
        key: jax.Array,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Scalar,
        *,
        drop_fraction: Scalar | None = None,
    ) -> TopologyState:
        rate = fraction(step) if drop_fraction is None else drop_fraction
        drop = drop_scores(key, params, grads, state.masks)
        grow = grow_scores(key, params, grads, state.masks)
        return advance(state, prune_and_grow(state.masks, drop, grow, rate))

    return TopologyTransform(random_start(density, distribution, filter_fn), update, due, fraction)
