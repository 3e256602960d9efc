"""Cycles that follow what the last one did: how high the rate goes, how much is explored.

All of it is arithmetic on numbers that may be traced. What a cycle decides for the next one is two
scalars, `high` and the explored share, which belong into the training state, so that a resumed run
goes on with the same bits. The rules are supjax's own (METHOD 5.2); the paper keeps both fixed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from supjax.schedules import CyclePlan, sup_tickets_schedule
from supjax.types import Scalar, Schedule

TARGET_DISAGREEMENT = 0.015
"""Share of inputs on which neighbouring tickets should differ: 0.015 to 0.017 in the paper."""

BARRIER_SHARE = 0.1
"""Two tickets are in different basins if the barrier exceeds this share of their mean loss."""

LARGEST_CHANGE = 4.0
"""Factor by which one cycle may raise or lower the rate of the next."""


def next_high(
    high: Scalar,
    disagreement: Scalar,
    *,
    low: Scalar,
    peak: Scalar,
    target: Scalar = TARGET_DISAGREEMENT,
) -> jax.Array:
    """Return the highest rate of the next cycle, `clip(high clip(target / d, 1/4, 4), low, peak)`.

    Tickets that hardly differ have nothing to gain from a mean, and tickets that differ too much
    have none; the rate is what moves them apart.

    Args:
      high: highest learning rate of the last cycle.
      disagreement: d, the share of inputs on which its ticket and the one before give different
        classes, `supjax.analysis.disagreement`; at 0 the rate grows by the largest factor.
      low: learning rate at which the normal phase ended.
      peak: largest learning rate of the normal phase.
      target: the disagreement to aim at.

    Returns:
      A scalar, float32.

    >>> [round(float(next_high(0.01, d, low=0.001, peak=0.1)), 4) for d in (0.015, 0.03, 0.0, 1.0)]
    [0.01, 0.005, 0.04, 0.0025]
    """
    wanted = jnp.asarray(target, jnp.float32) / jnp.maximum(disagreement, jnp.float32(1e-30))
    change = jnp.clip(wanted, 1 / LARGEST_CHANGE, LARGEST_CHANGE)
    return jnp.clip(high * change, low, peak)


def first_exploration(
    exploration: Scalar, cycle_steps: Scalar, *, steps_to_train: Scalar
) -> jax.Array:
    """Return how much the first cycle explores, `p min(1, cycle steps / steps to train)`.

    What a cycle grows starts at zero and must be trained before the ticket is taken, so a short
    cycle may grow less.

    Args:
      exploration: p, the share of active weights that a long cycle explores, in [0, 1].
      cycle_steps: training steps of a cycle.
      steps_to_train: steps that a network needs after exploring p, measured.

    Returns:
      A scalar in [0, p], float32.

    >>> float(first_exploration(0.5, 76, steps_to_train=304))
    0.125
    """
    share = jnp.asarray(cycle_steps, jnp.float32) / steps_to_train
    return jnp.asarray(exploration, jnp.float32) * jnp.minimum(share, 1)


def next_exploration(
    exploration: Scalar,
    loss: Scalar,
    previous_loss: Scalar,
    standard_error: Scalar,
    *,
    most: Scalar,
) -> jax.Array:
    """Return how much the next cycle explores: `p / 4` after a worse ticket, else `min(2p, most)`.

    Worse means a held-out loss above that of the ticket before by more than one paired standard
    error: what was grown was not trained in time.

    Args:
      exploration: p, the share that the last cycle explored, in [0, 1].
      loss: mean held-out loss of its ticket; NaN counts as worse.
      previous_loss: that of the ticket before, or of the end of the normal phase.
      standard_error: of their difference, from `supjax.analysis.paired_difference`.
      most: largest share.

    Returns:
      A scalar, float32.

    >>> float(next_exploration(0.2, 0.5, 0.4, 0.05, most=0.5))  # worse by two standard errors
    0.05000000074505806
    >>> float(next_exploration(0.2, 0.44, 0.4, 0.05, most=0.25))
    0.25
    """
    share = jnp.asarray(exploration, jnp.float32)
    recovered = loss - previous_loss <= standard_error
    return jnp.where(recovered, jnp.minimum(2 * share, most), share / 4)


class NextCycle(NamedTuple):
    """What one cycle decides for the next.

    Attributes:
      high: highest rate, shape ().
      exploration: share of active weights to explore, shape ().
      keep: whether the ticket of the last cycle belongs into the mean, shape ().

    >>> NextCycle._fields
    ('high', 'exploration', 'keep')
    """

    high: jax.Array
    exploration: jax.Array
    keep: jax.Array


def next_cycle(
    high: Scalar,
    exploration: Scalar,
    *,
    disagreement: Scalar,
    loss: Scalar,
    previous_loss: Scalar,
    standard_error: Scalar,
    middle_loss: Scalar,
    low: Scalar,
    peak: Scalar,
    most: Scalar,
    target: Scalar = TARGET_DISAGREEMENT,
) -> NextCycle:
    """Return the next cycle's numbers: `barrier_check`, else `next_high`; and `next_exploration`.

    Args:
      high: see `next_high`.
      exploration: see `next_exploration`.
      disagreement: see `next_high`.
      loss: see `next_exploration`.
      previous_loss: see `next_exploration`.
      standard_error: see `next_exploration`.
      middle_loss: loss of the mean of the ticket and the one before, see `barrier_check`.
      low: see `next_high`.
      peak: see `next_high`.
      most: see `next_exploration`.
      target: see `next_high`.

    Returns:
      A `NextCycle`.

    >>> numbers = dict(loss=0.4, previous_loss=0.42, standard_error=0.01, low=0.001, peak=0.1)
    >>> cycle = next_cycle(0.02, 0.1, disagreement=0.03, middle_loss=0.38, most=0.5, **numbers)
    >>> round(float(cycle.high), 4), round(float(cycle.exploration), 4), bool(cycle.keep)
    (0.01, 0.2, True)
    """
    barrier = barrier_check(middle_loss, previous_loss, loss, high, low=low)
    apart = next_high(high, disagreement, low=low, peak=peak, target=target)
    share = next_exploration(exploration, loss, previous_loss, standard_error, most=most)
    rate = jnp.where(barrier.crossed, barrier.high, apart)
    return NextCycle(rate, share, ~barrier.crossed)


class CycleRates(NamedTuple):
    """The state of an `adaptive_schedule`.

    Attributes:
      updates: how many there were, shape (), int32.
      high: highest rate of the cycles to come, shape (), float32.

    >>> CycleRates._fields
    ('updates', 'high')
    """

    updates: jax.Array
    high: jax.Array


class AdaptiveSchedule:
    """A schedule of optax's stateful kind; see `adaptive_schedule`."""

    def __init__(self, normal: Schedule, plan: CyclePlan, low: float, high: float, **options: Any):
        sup_tickets_schedule(normal, plan, low, high, **options)  # raises what is wrong
        self._arguments, self._high, self._options = (normal, plan, low), high, options

    def init(self) -> CycleRates:
        """Return the state before the first update."""
        return CycleRates(jnp.zeros((), jnp.int32), jnp.asarray(self._high, jnp.float32))

    def update(self, state: CycleRates, **extra_args: Any) -> CycleRates:
        """Return the state after one more update."""
        del extra_args
        return state._replace(updates=optax.safe_increment(state.updates))

    def __call__(self, state: CycleRates, **extra_args: Any) -> jax.Array:
        """Return the rate of the next update."""
        del extra_args
        schedule = sup_tickets_schedule(*self._arguments, state.high, **self._options)
        return jnp.asarray(schedule(state.updates), jnp.float32)


def adaptive_schedule(
    normal: Schedule,
    plan: CyclePlan,
    low: float,
    high: float,
    *,
    cycle: str = "triangular",
    endpoint: bool = True,
) -> AdaptiveSchedule:
    """Return `sup_tickets_schedule` with its highest rate in the optimizer state.

    For `optax.inject_hyperparams`, inside or outside of `supjax.sup_tickets`. Between two cycles
    `optax.tree.set(opt_state, high=...)` sets the rate of the next ones, from `next_high`, and
    nothing is compiled again; `optax.tree.get(opt_state, "high")` reads it.

    Args:
      normal: see `sup_tickets_schedule`.
      plan: see `sup_tickets_schedule`.
      low: see `sup_tickets_schedule`.
      high: highest rate of the first cycle.
      cycle: see `sup_tickets_schedule`.
      endpoint: see `sup_tickets_schedule`.

    Returns:
      An `AdaptiveSchedule`.

    Raises:
      ValueError: as `sup_tickets_schedule`.

    >>> plan = CyclePlan(normal_steps=1, cycle_steps=2, num_cycles=2)
    >>> rates = adaptive_schedule(lambda step: 0.1, plan, 0.0, 0.5)
    >>> tx = optax.inject_hyperparams(optax.sgd)(learning_rate=rates)
    >>> params, found = jnp.zeros(()), []
    >>> opt_state = tx.init(params)
    >>> for step in range(plan.total_steps):
    ...     updates, opt_state = tx.update(jnp.ones(()), opt_state)
    ...     found.append(round(-float(updates), 3))
    ...     if step in plan.ticket_steps:
    ...         opt_state = optax.tree.set(opt_state, high=jnp.float32(0.25))
    >>> found
    [0.1, 0.5, 0.0, 0.25, 0.0]
    """
    return AdaptiveSchedule(normal, plan, low, high, cycle=cycle, endpoint=endpoint)


class BarrierCheck(NamedTuple):
    """What lies between a ticket and the one before it.

    Attributes:
      barrier: loss at the middle minus the mean loss of both, shape ().
      crossed: whether that is too much: the ticket does not belong into the mean.
      high: highest rate to go on with.

    >>> BarrierCheck._fields
    ('barrier', 'crossed', 'high')
    """

    barrier: jax.Array
    crossed: jax.Array
    high: jax.Array


def barrier_check(
    middle: Scalar, first: Scalar, second: Scalar, high: Scalar, *, low: Scalar = 0.0
) -> BarrierCheck:
    """Say whether two neighbours lie in one basin; halve the rate if they do not.

    `b = loss(mean of both) - (loss_1 + loss_2) / 2`, too much if above a tenth of that mean loss.
    Batch-norm statistics are to be estimated again for the middle before it is scored.

    Args:
      middle: loss of the mean of the two networks; NaN counts as too much.
      first: loss of the one.
      second: loss of the other.
      high: highest learning rate of the cycle between them.
      low: learning rate that `high` does not fall below.

    Returns:
      A `BarrierCheck`.

    Source: Frankle et al., *Linear mode connectivity and the lottery ticket hypothesis*, ICML
    2020, section 2 (the barrier).

    >>> found = barrier_check(0.5, 0.3, 0.5, 0.1)
    >>> round(float(found.barrier), 3), bool(found.crossed), round(float(found.high), 3)
    (0.1, True, 0.05)
    """
    mean = (jnp.asarray(first, jnp.float32) + second) / 2
    barrier = middle - mean
    crossed = ~(barrier <= BARRIER_SHARE * mean)
    rate = jnp.asarray(high, jnp.float32)
    return BarrierCheck(barrier, crossed, jnp.where(crossed, jnp.maximum(rate / 2, low), rate))
