"""The arithmetic that every running mean goes through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supjax.superposition.averaging import mean_leaf, running_mean


def assert_same_bits(ours, expected):
    assert ours.dtype == expected.dtype
    assert np.asarray(ours).tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 0.75, 1.0])
def test_equal_entries_come_back_bit_for_bit(dtype, share):
    values = jnp.asarray([0.1, -3.7, 1e-4, 6e4, 0.0, jnp.inf, -jnp.inf], dtype)
    assert_same_bits(mean_leaf(values, values, share), values)


def test_a_half_share_is_symmetric_bit_for_bit():
    draw = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    first, second = jnp.asarray(draw)
    assert_same_bits(mean_leaf(first, second, 0.5), mean_leaf(second, first, 0.5))
    halved = jax.jit(lambda a, b: mean_leaf(a, b, 0.5))
    assert_same_bits(halved(first, second), halved(second, first))


@pytest.mark.parametrize(
    ("old", "new", "share", "expected"),
    [(1.0, 5.0, 0.0, 1.0), (1.0, 5.0, 1.0, 5.0), (1.0, 5.0, 0.25, 2.0), (-2.0, 0.0, 0.5, -1.0)],
)
def test_shares_weigh_the_new_entry(old, new, share, expected):
    assert mean_leaf(jnp.float32(old), jnp.float32(new), share) == expected


def test_low_precision_is_averaged_in_float32_and_rounded_once():
    old, new = jnp.asarray([1.0, 256.0], jnp.bfloat16), jnp.asarray([1.0078125, 1.0], jnp.bfloat16)
    mean = mean_leaf(old, new, 1 / 3)
    assert mean.dtype == jnp.bfloat16
    exact = (2 * np.asarray(old, np.float32) + np.asarray(new, np.float32)) / 3
    np.testing.assert_array_equal(mean, jnp.asarray(exact, jnp.bfloat16))


@pytest.mark.parametrize(
    ("dtype", "old", "new", "share", "expected"),
    [
        ("int32", 100, 107, 0.5, 104),  # half up, whichever comes first
        ("int32", 107, 100, 0.5, 104),
        ("int32", -100, -107, 0.5, -103),
        ("int32", 100, 107, 1 / 3, 102),
        ("uint32", 9, 3, 0.5, 6),
        ("int32", 2**30 + 1, 2**30 + 3, 0.5, 2**30 + 2),  # above what a float32 can count
    ],
)
def test_counters_are_rounded(dtype, old, new, share, expected):
    mean = mean_leaf(jnp.asarray(old, dtype), jnp.asarray(new, dtype), share)
    assert (int(mean), mean.dtype) == (expected, dtype)


def test_a_whole_tree_with_a_traced_share_and_mixed_dtypes():
    running = {"mean": jnp.zeros(2), "layers": [jnp.ones((), jnp.bfloat16), jnp.int32(3)]}
    new = {"mean": jnp.full(2, 4.0), "layers": [jnp.asarray(3, jnp.bfloat16), jnp.int32(5)]}
    mean = jax.jit(running_mean)(running, new, 0.5)
    assert jax.tree.map(lambda x: x.dtype, mean) == jax.tree.map(lambda x: x.dtype, running)
    assert jax.tree.map(lambda x: x.tolist(), mean) == {"mean": [2.0, 2.0], "layers": [2.0, 4]}


def test_a_running_mean_of_many_members_is_their_mean():
    members = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)
    running = jnp.asarray(members[0])
    for count, member in enumerate(members[1:], start=2):
        running = running_mean(running, jnp.asarray(member), 1 / count)
    np.testing.assert_allclose(running, members.mean(0), rtol=1e-5, atol=1e-6)
