"""Baselines at no extra training: averages of the weights along the way."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from supjax.schedules import CyclePlan
from supjax.superposition.averaging import running_mean
from supjax.types import Masks, Params, PyTree, Schedule

EMA, TAIL = "ema", "tail"
"""Names of the averages, of their files and of their kinds in a summary."""

Shares = Mapping[str, Schedule]
"""Name of an average -> `step -> share` of the weights after that step in it."""


def share_schedules(decay: float, tail: bool, plan: CyclePlan) -> dict[str, Schedule]:
    """Return the averages that a run keeps.

    `e <- d e + (1 - d) w` after every step for a decay d. The tail's share is 1 up to the first
    step of the last cycle, which moves the masks, and 1/2, 1/3, ... after it: the plain mean of
    the weights after each step of that cycle.

    Args:
      decay: d; 0 for no moving average.
      tail: whether the mean of the last cycle is wanted; a plan without cycles has none.
      plan: the two phases.

    >>> plan = CyclePlan(normal_steps=4, cycle_steps=3, num_cycles=2)
    >>> shares = share_schedules(0.75, True, plan)
    >>> shares["ema"](5), [round(float(shares["tail"](step)), 2) for step in (0, 7, 8, 9)]
    (0.25, [1.0, 1.0, 0.5, 0.33])
    """
    shares: dict[str, Schedule] = {}
    if decay:
        shares[EMA] = lambda step: 1 - decay
    if tail and plan.num_cycles:
        first = plan.total_steps - plan.cycle_steps
        shares[TAIL] = lambda step: 1 / jnp.maximum(step - first + 1, 1)
    return shares


def first_averages(shares: Shares, params: Params) -> dict[str, Params]:
    """Return the averages before any step: copies of the weights."""
    return {name: jax.tree.map(jnp.copy, params) for name in shares}


def averaged(
    shares: Shares, averages: Mapping[str, Params], params: Params, step: Any
) -> dict[str, Params]:
    """Return the averages with the weights after one more step.

    Args:
      shares: from `share_schedules`.
      averages: name -> average so far.
      params: the weights after the step.
      step: its index; may be traced.

    >>> shares = {"ema": lambda step: 0.25}
    >>> averaged(shares, {"ema": {"w": jnp.zeros(1)}}, {"w": jnp.ones(1)}, 0)["ema"]["w"].tolist()
    [0.25]
    """
    return {
        name: running_mean(average, params, shares[name](step))
        for name, average in averages.items()
    }


def remasked(averages: PyTree, before: Masks, params: Params, masks: Masks) -> PyTree:
    """Return averages on new masks; what comes in starts at its current value.

    That is zero for what a method or an exploration grows.

    Args:
      averages: name -> average on the masks before.
      before: those masks.
      params: the weights on the new masks, zero outside of them.
      masks: the new masks.

    >>> old, new = {"w": jnp.array([True, True, False])}, {"w": jnp.array([True, False, True])}
    >>> average, params = {"w": jnp.array([1.0, 2.0, 0.0])}, {"w": jnp.array([5.0, 0.0, 7.0])}
    >>> remasked({"ema": average}, old, params, new)["ema"]["w"].tolist()
    [1.0, 0.0, 7.0]
    """

    def leaf(average: Any, weight: Any, old: Any, new: Any) -> Any:
        return average if new is None else jnp.where(old & new, average, weight)

    return {
        name: jax.tree.map(leaf, average, params, before, masks)
        for name, average in averages.items()
    }
