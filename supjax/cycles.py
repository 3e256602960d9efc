"""The learning rate of a run with cycles: triangular as in the paper, and what it compares with."""

from typing import Any

from supjax.checks import check_choice, check_count
from supjax.plan import CyclePlan
from supjax.schedules import namespace
from supjax.types import Schedule


def cyclic_schedule(
    low: float, high: float, cycle_steps: int, *, endpoint: bool = True
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
    low: float, high: float, cycle_steps: int, *, endpoint: bool = True
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


def _check_cycle(low: float, high: float, cycle_steps: int) -> None:
    if not 0 <= low <= high:
        raise ValueError(f"the cycle needs 0 <= low <= high, got low={low}, high={high}")
    check_count(cycle_steps, "cycle_steps")


CYCLES = ("triangular", "sawtooth", "constant")
"""Shapes of the cyclic phase: that of the paper, and those which it compares with."""


def sup_tickets_schedule(
    normal: Schedule,
    plan: CyclePlan,
    low: float,
    high: float,
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
