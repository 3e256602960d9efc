"""Values over a run: a step-decayed learning rate, drop fractions, the density ramp, update steps.

Every schedule is a function `step -> value`, with `step` counted from 0. A Python int gives an
exact float64 value; a traced step gives float32 inside the compiled program.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supjax.checks import check_count, check_density, check_fraction
from supjax.types import Schedule


def namespace(step: Any) -> Any:
    """Return the module that computes with this step: jax.numpy for arrays, else numpy."""
    return jnp if isinstance(step, jax.Array) else np


def step_decay_schedule(
    peak: float, boundaries: Sequence[int], *, factor: float = 0.1, warmup_steps: int = 0
) -> Schedule:
    """Return a step-decayed learning rate: `peak * factor ** (number of boundaries reached)`.

    Args:
      peak: learning rate before the first boundary.
      boundaries: steps at which the rate is multiplied by `factor`, ascending.
      factor: multiplier at every boundary, in (0, 1].
      warmup_steps: length of a linear warm-up from `peak / warmup_steps` to `peak`.

    Returns:
      `step -> learning rate`.

    Raises:
      ValueError: if an argument is out of range.

    >>> schedule = step_decay_schedule(0.1, [113, 169])
    >>> [round(float(schedule(step)), 6) for step in (0, 112, 113, 169)]
    [0.1, 0.1, 0.01, 0.001]
    """
    if peak < 0:
        raise ValueError(f"peak must be at least 0, got {peak}")
    if not 0 < factor <= 1:
        raise ValueError(f"factor must be in (0, 1], got {factor}")
    _check_boundaries(boundaries)
    check_count(warmup_steps, "warmup_steps", least=0)

    def schedule(step: Any) -> Any:
        xp = namespace(step)
        warmup = xp.minimum((step + 1) / max(warmup_steps, 1), 1.0)
        return peak * factor ** _stage(step, boundaries) * warmup

    return schedule


def constant_fraction(value: float) -> Schedule:
    """Return the constant drop fraction `f(t) = value`.

    Args:
      value: the fraction, in [0, 1].

    Returns:
      `step -> fraction`.

    >>> constant_fraction(0.5)(1000)
    0.5
    """
    check_fraction(value, "drop fraction")
    return lambda step: value


def cosine_fraction(initial: float, end_step: int, *, final: float = 0.0) -> Schedule:
    """Return a cosine-decayed drop fraction, constant from `end_step` on.

    `f(t) = final + (initial - final) / 2 * (1 + cos(pi t / T_end))`.

    Args:
      initial: fraction at step 0, in [0, 1].
      end_step: T_end, in steps.
      final: fraction at the end; the authors' code of Sup-tickets uses 0.005.

    Returns:
      `step -> fraction`.

    Raises:
      ValueError: if a fraction is outside [0, 1] or end_step < 1.

    Source: Evci et al., *Rigging the Lottery*, ICML 2020, section 3 (final = 0).

    >>> [round(float(cosine_fraction(0.3, 100)(step)), 3) for step in (0, 50, 100, 200)]
    [0.3, 0.15, 0.0, 0.0]
    """
    check_fraction(initial, "initial drop fraction")
    check_fraction(final, "final drop fraction")
    check_count(end_step, "end_step")

    def schedule(step: Any) -> Any:
        xp = namespace(step)
        t = xp.clip(step, 0, end_step)
        return final + (initial - final) / 2 * (1 + xp.cos(math.pi * t / end_step))

    return schedule


def staged_fraction(initial: float, boundaries: Sequence[int], *, factor: float = 0.5) -> Schedule:
    """Return a drop fraction that is multiplied by `factor` at every boundary.

    Args:
      initial: fraction before the first boundary, in [0, 1].
      boundaries: steps at which a new stage begins, ascending.
      factor: multiplier at every boundary, in [0, 1].

    Returns:
      `step -> fraction`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Yuan et al., *MEST*, NeurIPS 2021, section 3 (the mutation decays in stages).

    >>> [float(staged_fraction(0.2, [10, 20])(step)) for step in (9, 10, 25)]
    [0.2, 0.1, 0.05]
    """
    check_fraction(initial, "initial drop fraction")
    check_fraction(factor, "factor")
    _check_boundaries(boundaries)

    def schedule(step: Any) -> Any:
        return initial * factor ** _stage(step, boundaries)

    return schedule


def _check_boundaries(boundaries: Sequence[int]) -> None:
    if list(boundaries) != sorted(boundaries) or any(b < 0 for b in boundaries):
        raise ValueError(f"boundaries must ascend from 0 on, got {list(boundaries)}")


def _stage(step: Any, boundaries: Sequence[int]) -> Any:
    """Count the boundaries that are reached."""
    return sum((step >= boundary) * 1 for boundary in boundaries)


def cubic_density_ramp(initial: float, final: float, start: int, end: int) -> Schedule:
    """Return the density of gradual pruning, a cubic fall from `initial` to `final`.

    `d(t) = final + (initial - final) (1 - (t - start) / (end - start))^3`, that is the sparsity
    `s_i + (s_f - s_i)(1 - (1 - u)^3)`, held constant outside [start, end]. The value at `end` is
    exactly `final`, whether or not `end` is a multiple of an update interval.

    Args:
      initial: density until `start`, in (0, 1].
      final: density from `end` on, in (0, initial].
      start: first step of the ramp.
      end: last step of the ramp, above `start`.

    Returns:
      `step -> density`.

    Raises:
      ValueError: if the densities or steps are out of order or range.

    Source: Zhu and Gupta, *To prune, or not to prune*, 2017, equation 1.

    >>> [float(cubic_density_ramp(1.0, 0.5, 0, 20)(step)) for step in (0, 10, 20)]
    [1.0, 0.5625, 0.5]
    """
    check_density(initial, "initial density")
    check_density(final, "final density")
    if final > initial:
        raise ValueError(f"the ramp must fall: final density {final} is above initial {initial}")
    check_count(start, "start", least=0)
    check_count(end, "end", least=start + 1)

    def schedule(step: Any) -> Any:
        xp = namespace(step)
        left = xp.clip((end - step) / (end - start), 0, 1)
        return final + (initial - final) * left**3

    return schedule


def every(interval: int, *, start: int = 0, stop: int | None = None) -> Callable[[Any], Any]:
    """Return `step -> bool`: whether a periodic update follows this training step.

    An update belongs to step i (from 0) if `(i + 1) % interval == 0` and `start <= i < stop`, so
    the first one comes after `interval` steps.

    Args:
      interval: steps between updates, Delta T.
      start: first step that may carry an update.
      stop: first step that may not; None means never stop.

    Returns:
      A function of an int (giving a bool) or of a traced integer.

    Raises:
      ValueError: if interval < 1, start < 0 or stop < start.

    >>> [step for step in range(10) if every(3, stop=8)(step)]
    [2, 5]
    """
    check_count(interval, "interval")
    check_count(start, "start", least=0)
    if stop is not None:
        check_count(stop, "stop", least=start)

    def due(step: Any) -> Any:
        hit = ((step + 1) % interval == 0) & (step >= start)
        return hit if stop is None else hit & (step < stop)

    return due


def never(step: Any) -> Any:
    """Say for every step that no update is due.

    >>> bool(never(3))
    False
    """
    return step < 0
