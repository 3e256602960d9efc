"""Integer counts: exact at any size, and totals that add up."""

import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supjax.allocation import apportion, budget, ceil_share, exact, largest_remainder

BIG = 2**31 - 1

jitted_ceil_share = jax.jit(ceil_share)
jitted_apportion = jax.jit(apportion)


@pytest.mark.parametrize(
    ("density", "size", "count"),
    [
        (0.05, 25_502_912, 1_275_146),  # 1,275,145.6
        (0.29, 100, 29),  # 100 * 0.29 is 28.999999999999996 in binary
        (0.5, 5, 3),  # a half is rounded up
        (0.29, 50, 15),  # 14.5, which is 14.499999999999998 in binary
        (0.1, 2**24 + 5, 1_677_722),  # 1,677,722.1
        (1.0, 2**40 + 1, 2**40 + 1),
        (0.001, 3, 0),
        (np.float32(0.1), 30, 3),
        (Fraction(1, 3), 3, 1),
    ],
)
def test_budget_is_the_rounded_product(density, size, count):
    assert budget(density, size) == count


@given(st.integers(1, 1000), st.integers(0, 10**12))
def test_budget_is_within_half_a_weight(thousandths, size):
    off = budget(thousandths / 1000, size) - Fraction(thousandths, 1000) * size
    assert -Fraction(1, 2) < off <= Fraction(1, 2)


def test_exact_takes_the_decimal_that_was_written():
    assert exact(0.58) == exact("0.58") == exact(Fraction(29, 50)) == Fraction(29, 50)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "half"])
def test_exact_refuses_what_is_no_number(value):
    with pytest.raises(ValueError, match=f"^not a finite number: {re.escape(repr(value))}$"):
        exact(value)


@given(st.integers(0, 10**6), st.integers(0, BIG))
def test_ceil_share_is_exact_up_to_the_largest_count(parts, count):
    share = jitted_ceil_share(np.float32(parts / 10**6), np.int32(count))
    assert int(share) == -(-parts * count // 10**6)


@pytest.mark.parametrize(
    ("rate", "count", "share"),
    [
        (0.5, 2**24 + 1, 2**23 + 1),  # float32 holds neither this count nor its half
        (0.5, 2**25 + 3, 2**24 + 2),
        (1.0, BIG, BIG),
        (0.3, 10, 3),  # 0.3 * 10 is 3.0000001 in float32, whose ceiling is 4
        (-0.5, 10, 0),
        (1.5, 10, 10),
    ],
)
def test_ceil_share_by_hand(rate, count, share):
    assert int(ceil_share(rate, count)) == share


def test_ceil_share_of_an_array_of_counts():
    shares = ceil_share(0.25, jnp.array([0, 1, 4, 5]))
    assert shares.tolist() == [0, 1, 1, 2]
    assert shares.dtype == jnp.int32


@pytest.mark.parametrize(
    ("shares", "caps", "total", "floor", "counts"),
    [
        ([1.5, 1.5, 0.1], [9, 9, 9], 3, 0, [2, 1, 0]),  # equal remainders: the first one wins
        ([2.2, 0.7, 0.1], [9, 9, 9], 3, 0, [2, 1, 0]),
        ([2.0, 2.0], [1, 9], 4, 0, [1, 3]),  # what a cap holds back goes elsewhere
        ([5.0, 5.0], [3, 2], 99, 0, [3, 2]),  # never above the caps
        ([4.9, 0.1, 0.0], [9, 9, 9], 5, 1, [3, 1, 1]),  # nobody is left empty
        ([4.9, 0.1, 0.0], [9, 9, 0], 5, 1, [4, 1, 0]),  # a layer of size 0 stays empty
        ([1.0, 0.0, 0.0], [9, 9, 9], 2, 1, [2, 0, 0]),  # too little to go round: no lifting
    ],
)
def test_largest_remainder_by_hand(shares, caps, total, floor, counts):
    assert largest_remainder([exact(s) for s in shares], caps, total, floor) == counts


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 99)), min_size=1, max_size=8))
def test_largest_remainder_stays_within_one_of_every_share(layers):
    caps = [size for size, _ in layers]
    shares = [Fraction(size * percent, 100) for size, percent in layers]
    total = int(sum(shares) + Fraction(1, 2))
    counts = largest_remainder(shares, caps, total)
    assert sum(counts) == min(total, sum(caps))
    assert all(0 <= count <= cap for count, cap in zip(counts, caps, strict=True))
    assert all(abs(count - share) < 1 for count, share in zip(counts, shares, strict=True))


@pytest.mark.parametrize(
    ("total", "weights", "caps", "counts"),
    [
        (10, [3.0, 1.0, 1.0], [4, 9, 1], [4, 5, 1]),  # 6 2 2, cut to 4 2 1, 3 more for the second
        (6, [1.0, 2.0, 3.0], [9, 9, 9], [1, 2, 3]),
        (7, [1.0, 1.0, 1.0], [9, 9, 9], [3, 2, 2]),  # 2 each, the last unit to the first layer
        (4, [0.0, 0.0], [9, 9], [2, 2]),  # no weight at all: equal shares
        (9, [0.0, 1.0], [9, 2], [7, 2]),  # what does not fit goes where there is room
        (99, [1.0, 1.0], [3, 4], [3, 4]),
        (0, [1.0, 1.0], [3, 4], [0, 0]),
    ],
)
def test_apportion_by_hand(total, weights, caps, counts):
    assert apportion(total, jnp.array(weights), jnp.array(caps)).tolist() == counts


@given(
    st.lists(st.integers(0, 40_000_000), min_size=3, max_size=3),
    st.lists(st.sampled_from([0.0, 1e-30, 0.1, 1.0, 3.0, np.inf, np.nan]), min_size=3, max_size=3),
    st.floats(0, 1),
)
def test_apportion_conserves_the_total_and_respects_the_caps(caps, weights, share):
    total = int(share * sum(caps))
    counts = np.asarray(
        jitted_apportion(np.int32(total), np.array(weights, np.float32), np.array(caps, np.int32))
    )
    assert counts.sum() == total
    assert (counts >= 0).all()
    assert (counts <= caps).all()
