"""Static and dense masks, by hand."""

import jax
import jax.numpy as jnp

import supjax
from supjax.topologies import dense, static

PARAMS = {"a": jnp.ones((4, 5)), "b": jnp.ones((2, 3)), "bias": jnp.ones(3)}


def test_static_starts_with_erk_counts_and_stays():
    # Scores 9/20 and 5/6; eps = 13 / (9 + 5), so 8.36 + 4.64 = 13 weights: 8 and 5.
    topology = static(0.5)
    state = topology.init(jax.random.key(0), PARAMS)
    assert [int(state.masks[name].sum()) for name in ("a", "b")] == [8, 5]
    assert state.masks["bias"] is None
    after = topology.update(jax.random.key(1), PARAMS, state, PARAMS, 7, drop_fraction=0.5)
    assert after is state
    assert not any(topology.due(step) for step in range(10_000))


def test_static_with_one_density_everywhere():
    state = static(0.5, distribution="uniform").init(jax.random.key(0), PARAMS)
    assert [int(state.masks[name].sum()) for name in ("a", "b")] == [10, 3]


def test_dense_keeps_everything():
    state = dense().init(jax.random.key(0), PARAMS)
    assert supjax.count_active(state.masks) == 26


def test_a_filter_says_where_masks_live():
    state = static(0.5, filter_fn=lambda path, leaf: path == "b").init(jax.random.key(0), PARAMS)
    assert state.masks["a"] is None
    assert state.masks["b"].sum() == 3
