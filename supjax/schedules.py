"""Values over a run: a step-decayed learning rate, drop fractions, the density ramp, update steps.

Every schedule is a function `step -> value`, with `step` counted from 0. A Python int gives an
exact float64 value; a traced step gives float32 inside the compiled program.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supjax.allocation import exact
from supjax.checks import check_choice, check_count, check_density, check_fraction, listed
from supjax.types import Scalar, Schedule


class CyclePlan(NamedTuple):
    """How many training steps each phase takes.

    A run is `normal_steps` of ordinary sparse training, then `num_cycles` cycles of
    `cycle_steps` each; every cycle begins with an exploration and ends with a ticket.

    Source: Yin et al., *Superposing Many Tickets into One*, UAI 2022, section 3.

    >>> plan = CyclePlan.from_epochs(250, cycle_fraction=0.1, cycle_epochs=8, steps_per_epoch=1)
    >>> plan, plan.total_steps, plan.ticket_steps
    (CyclePlan(normal_steps=226, cycle_steps=8, num_cycles=3), 250, (233, 241, 249))
    """

    normal_steps: int
    cycle_steps: int
    num_cycles: int

    @property
    def cyclic_steps(self) -> int:
        """Length of the cyclic phase."""
        return self.cycle_steps * self.num_cycles

    @property
    def total_steps(self) -> int:
        """Length of the run."""
        return self.normal_steps + self.cyclic_steps

    @property
    def exploration_steps(self) -> tuple[int, ...]:
        """The first training step (from 0) of every cycle."""
        return tuple(self.normal_steps + i * self.cycle_steps for i in range(self.num_cycles))

    @property
    def ticket_steps(self) -> tuple[int, ...]:
        """The last training step (from 0) of every cycle: its ticket is taken right after."""
        return tuple(step + self.cycle_steps - 1 for step in self.exploration_steps)

    @classmethod
    def from_epochs(
        cls,
        epochs: int,
        *,
        cycle_fraction: float | str | Fraction = 0.1,
        cycle_epochs: int | None = None,
        steps_per_epoch: int,
    ) -> "CyclePlan":
        """Split a budget of epochs: `cyclic = epochs * cycle_fraction`, cut to whole cycles.

        The fraction is taken as the decimal that was written, so 100 epochs * 0.29 gives 29. A
        cycle whose length is not given is a third of the cyclic phase, at least one epoch: the
        lengths of the paper at its budgets (8 of 250 epochs, 2 of 100), and cycles at every smaller
        budget of two epochs or more. If no cycle of a given length fits, there are no cycles and
        the whole budget is the normal phase.

        Args:
          epochs: length of the whole run.
          cycle_fraction: share of the run for the cyclic phase, in [0, 1].
          cycle_epochs: epochs C in one cycle; None for `max(cyclic // 3, 1)`.
          steps_per_epoch: training steps in one epoch.

        Raises:
          ValueError: if a number is out of range or one cycle is longer than the run.

        >>> CyclePlan.from_epochs(250, cycle_fraction=0.1, steps_per_epoch=1)
        CyclePlan(normal_steps=226, cycle_steps=8, num_cycles=3)

        >>> CyclePlan.from_epochs(100, cycle_fraction=0.29, cycle_epochs=29, steps_per_epoch=2)
        CyclePlan(normal_steps=142, cycle_steps=58, num_cycles=1)
        """
        check_count(epochs, "epochs")
        check_count(steps_per_epoch, "steps_per_epoch")
        fraction = exact(cycle_fraction)
        if not 0 <= fraction <= 1:
            raise ValueError(f"cycle_fraction must be in [0, 1], got {cycle_fraction}")
        cyclic = int(epochs * fraction)
        if cycle_epochs is None:
            cyclic = max(cyclic, int(fraction > 0 and epochs > 1))
            cycle_epochs = max(cyclic // 3, 1)
        check_count(cycle_epochs, "cycle_epochs")
        if cycle_epochs > epochs:
            raise ValueError(f"a cycle of {cycle_epochs} epochs is longer than the run of {epochs}")
        num_cycles = cyclic // cycle_epochs
        normal = epochs - num_cycles * cycle_epochs
        return cls(normal * steps_per_epoch, cycle_epochs * steps_per_epoch, num_cycles)

    @classmethod
    def from_steps(cls, total_steps: int, *, cyclic_steps: int, cycle_steps: int) -> "CyclePlan":
        """Split a budget of steps; the cyclic phase is cut down to whole cycles.

        Args:
          total_steps: length of the whole run.
          cyclic_steps: length of the cyclic phase before the cut; 0 means no cycles.
          cycle_steps: steps C in one cycle.

        Raises:
          ValueError: if a number is out of range, the cyclic phase is longer than the run, or a
            cycle is longer than the cyclic phase.

        >>> CyclePlan.from_steps(100, cyclic_steps=25, cycle_steps=8)
        CyclePlan(normal_steps=76, cycle_steps=8, num_cycles=3)
        """
        check_count(total_steps, "total_steps")
        check_count(cyclic_steps, "cyclic_steps", least=0)
        check_count(cycle_steps, "cycle_steps")
        if cyclic_steps > total_steps:
            raise ValueError(
                f"cyclic phase of {cyclic_steps} steps is longer than the run of {total_steps}"
            )
        if 0 < cyclic_steps < cycle_steps:
            raise ValueError(
                f"cycle of {cycle_steps} steps is longer than the cyclic phase of {cyclic_steps}"
            )
        num_cycles = cyclic_steps // cycle_steps
        return cls(total_steps - num_cycles * cycle_steps, cycle_steps, num_cycles)


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
        raise ValueError(f"boundaries must ascend from 0 on, got {listed(boundaries)}")


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


def cyclic_schedule(
    low: Scalar, high: Scalar, cycle_steps: int, *, endpoint: bool = True
) -> Schedule:
    """Return the triangular cycle `low -> high -> low`, repeated for ever.

    With t the position inside the cycle, `lr = low (1 - 2t) + high 2t` for t < 1/2 and
    `high (2 - 2t) + low (2t - 1)` from there on.

    Args:
      low: smallest learning rate, the one at which the normal phase ended; at least 0.
      high: learning rate in the middle of a cycle; at least `low`.
      cycle_steps: training steps C in one cycle.
      endpoint: True counts `t = (i + 1) / C`, in (0, 1], as the paper does: the last step of a
        cycle, after which the ticket is taken, sees exactly `low`. False counts `t = i / C`, in
        [0, 1), as the authors' code does: the first step of a cycle sees exactly `low`.

    Returns:
      `step -> learning rate`, with step 0 the first step of the first cycle.

    Raises:
      ValueError: if low < 0, low > high or cycle_steps < 1.

    Source: Yin et al., *Superposing Many Tickets into One*, UAI 2022, section 3.

    >>> schedule = cyclic_schedule(0.001, 0.005, 4)
    >>> [round(float(schedule(i)), 4) for i in range(5)]
    [0.003, 0.005, 0.003, 0.001, 0.003]
    """
    _check_cycle(low, high, cycle_steps)

    def schedule(step: Any) -> Any:
        xp = namespace(step)
        t = (step % cycle_steps + int(endpoint)) / cycle_steps
        rising = low * (1 - 2 * t) + high * 2 * t
        falling = high * (2 - 2 * t) + low * (2 * t - 1)
        return xp.where(t < 0.5, rising, falling)

    return schedule


def sawtooth_schedule(
    low: Scalar, high: Scalar, cycle_steps: int, *, endpoint: bool = True
) -> Schedule:
    """Return the cycle that jumps to `high` and falls to `low`, repeated for ever.

    With t the position inside the cycle, `lr = high (1 - t) + low t`.

    Args:
      low: see `cyclic_schedule`.
      high: see `cyclic_schedule`.
      cycle_steps: see `cyclic_schedule`.
      endpoint: see `cyclic_schedule`; with False the first step of a cycle sees exactly `high`.

    Returns:
      `step -> learning rate`, as `cyclic_schedule`.

    Raises:
      ValueError: as `cyclic_schedule`.

    Source: Izmailov et al., *Averaging Weights Leads to Wider Optima and Better Generalization*,
    UAI 2018, section 3.1; the falling half of the cycle of Garipov et al., NeurIPS 2018.

    >>> schedule = sawtooth_schedule(0.001, 0.005, 4)
    >>> [round(float(schedule(i)), 4) for i in range(5)]
    [0.004, 0.003, 0.002, 0.001, 0.004]
    """
    _check_cycle(low, high, cycle_steps)

    def schedule(step: Any) -> Any:
        t = (step % cycle_steps + int(endpoint)) / cycle_steps
        return high * (1 - t) + low * t

    return schedule


def _check_cycle(low: Scalar, high: Scalar, cycle_steps: int) -> None:
    if not isinstance(high, jax.Array) and not 0 <= low <= high:  # one in a state is checked there
        raise ValueError(f"the cycle needs 0 <= low <= high, got low={low}, high={high}")
    check_count(cycle_steps, "cycle_steps")


CYCLES = ("triangular", "sawtooth", "constant")
"""Shapes of the cyclic phase: that of the paper, and those which it compares with."""


def sup_tickets_schedule(
    normal: Schedule,
    plan: CyclePlan,
    low: float,
    high: Scalar,
    *,
    cycle: str = "triangular",
    endpoint: bool = True,
) -> Schedule:
    """Return the learning rate of a whole run: `normal` first, then the cycles.

    Args:
      normal: optax schedule of the normal phase, `step -> learning rate`.
      plan: the steps of both phases; without cycles the result is `normal`.
      low: see `cyclic_schedule`.
      high: see `cyclic_schedule`.
      cycle: "triangular" (`cyclic_schedule`), "sawtooth" (`sawtooth_schedule`) or "constant",
        which keeps `high` through all cycles, as stochastic weight averaging does.
      endpoint: see `cyclic_schedule`.

    Returns:
      `step -> learning rate` for steps 0 to `plan.total_steps - 1`.

    Raises:
      ValueError: as `cyclic_schedule`, and for another `cycle`.

    >>> plan = CyclePlan(normal_steps=2, cycle_steps=2, num_cycles=1)
    >>> schedule = sup_tickets_schedule(lambda step: 0.1, plan, 0.001, 0.005)
    >>> [round(float(schedule(i)), 4) for i in range(4)]
    [0.1, 0.1, 0.005, 0.001]
    """
    check_choice(cycle, "cycle", CYCLES)
    shape = sawtooth_schedule if cycle == "sawtooth" else cyclic_schedule
    lowest = high if cycle == "constant" else low
    cyclic = shape(lowest, high, max(plan.cycle_steps, 1), endpoint=endpoint)
    if plan.num_cycles == 0:
        return normal
    start = plan.normal_steps

    def schedule(step: Any) -> Any:
        xp = namespace(step)
        return xp.where(step < start, normal(step), cyclic(xp.maximum(step - start, 0)))

    return schedule
