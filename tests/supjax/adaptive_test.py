"""The rules of adaptive cycles: worked by hand, compiled, and over many values at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supjax.adaptive import (
    barrier_check,
    first_exploration,
    next_cycle,
    next_exploration,
    next_high,
)


@pytest.mark.parametrize(
    ("high", "found", "expected"),
    [
        (0.02, 0.015, 0.02),  # on target
        (0.02, 0.0075, 0.04),  # half the target: twice the rate
        (0.02, 0.03, 0.01),
        (0.02, 0.0, 0.08),  # one network: four times
        (0.02, 1.0, 0.005),  # all different: a quarter
        (0.05, 0.001, 0.1),  # not above the peak
        (0.002, 0.5, 0.001),  # not below low
    ],
)
def test_the_next_rate_by_hand(high, found, expected):
    rate = jax.jit(lambda *a: next_high(*a, low=0.001, peak=0.1))(high, found)
    np.testing.assert_allclose(rate, expected, rtol=1e-6)
    assert (rate.shape, rate.dtype) == ((), jnp.float32)


def test_more_disagreement_never_raises_the_rate():
    found = jnp.linspace(0, 0.2, 101)
    rates = jax.vmap(lambda d: next_high(0.01, d, low=0.001, peak=0.1))(found)
    assert (jnp.diff(rates) <= 0).all()
    np.testing.assert_allclose([rates.min(), rates.max()], [0.0025, 0.04], rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(0.40, 0.2), (0.45, 0.2), (0.4501, 0.025), (0.1, 0.2), (jnp.nan, 0.025)],
)
def test_the_next_exploration_by_hand(loss, expected):
    share = jax.jit(lambda p, new: next_exploration(p, new, 0.4, 0.05 + 1e-7, most=0.5))(0.1, loss)
    np.testing.assert_allclose(share, expected, rtol=1e-6)
    assert next_exploration(0.4, 0.1, 0.4, 0.05, most=0.5) == 0.5


def test_the_first_exploration_is_a_long_cycles_or_less():
    shares = [float(first_exploration(0.5, n, steps_to_train=400)) for n in (0, 100, 400, 3000)]
    assert shares == [0.0, 0.125, 0.5, 0.5]


@pytest.mark.parametrize(
    ("middle", "crossed", "high"),
    [
        (0.4, False, 0.1),
        (0.43, False, 0.1),
        (0.45, True, 0.05),
        (0.2, False, 0.1),
        (jnp.nan, True, 0.05),
    ],
)
def test_the_barrier_by_hand(middle, crossed, high):
    found = jax.jit(lambda middle: barrier_check(middle, 0.3, 0.5, 0.1))(middle)
    assert bool(found.crossed) == crossed
    np.testing.assert_allclose(found.barrier, middle - 0.4, rtol=1e-4)
    np.testing.assert_allclose(found.high, high, rtol=1e-6)


def test_the_rate_does_not_fall_below_low():
    assert barrier_check(9.0, 0.3, 0.5, 0.01, low=0.008).high == jnp.float32(0.008)


@pytest.mark.parametrize(
    ("middle", "loss", "expected"),
    [
        (0.4, 0.4, (0.04, 0.2, True)),  # twice the rate for half the disagreement
        (0.6, 0.4, (0.01, 0.2, False)),  # a barrier halves it, whatever the disagreement says
        (0.45, 0.5, (0.04, 0.025, True)),  # untrained growth
        (jnp.nan, jnp.nan, (0.01, 0.025, False)),
    ],
)
def test_a_cycle_decides_the_next_one_in_one_compiled_step(middle, loss, expected):
    @jax.jit
    def decide(high, share, loss, middle):
        numbers = {"previous_loss": 0.4, "standard_error": 0.01, "disagreement": 0.0075}
        limits = {"low": 0.001, "peak": 0.1, "most": 0.5}
        return next_cycle(high, share, loss=loss, middle_loss=middle, **numbers, **limits)

    found = decide(0.02, 0.1, loss, middle)
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-6)
    assert bool(found.keep) == expected[2]
