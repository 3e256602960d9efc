"""The engine against a NumPy oracle: which weights go, which come, and how many."""

import math
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import supjax
from supjax.prune_grow import (
    active_counts,
    drop_smallest,
    grow_largest,
    layer_sizes,
    magnitude,
    random_scores,
)
from tests.helpers.strategies import masked_trees, values

KINDS = st.sampled_from(["distinct", "ties", "zeros"])


def best(scores, count, where):
    """The `count` largest scores among `where`; of equal ones the lowest index."""
    scores = np.asarray(scores, np.float32)
    places = np.flatnonzero(where)
    order = places[np.lexsort((places, -scores.ravel()[places]))]
    mask = np.zeros(scores.size, bool)
    mask[order[:count]] = True
    return mask.reshape(scores.shape)


def oracle(mask, drop, grow, percent):
    mask = np.asarray(mask)
    count = math.ceil(Fraction(percent, 100) * int(mask.sum()))
    kept = best(drop, mask.sum() - count, mask)
    return kept | best(grow, count, ~kept)


@given(masked_trees(), KINDS, st.integers(0, 2**16), st.integers(0, 100))
def test_prune_and_grow_moves_what_the_oracle_moves(pair, kind, seed, percent):
    params, masks = pair
    rng = np.random.RandomState(seed)
    drop = magnitude(params, masks)
    grow = jax.tree.map(lambda s: jnp.asarray(values(kind, rng, s.shape), s.dtype), drop)
    moved = supjax.prune_and_grow(masks, drop, grow, percent / 100)
    assert jax.tree.structure(moved) == jax.tree.structure(masks)
    rows = zip(*map(jax.tree.leaves, (masks, drop, grow, moved)), strict=True)
    for mask, drop_scores, grow_scores, after in rows:
        assert after.dtype == jnp.bool_
        assert after.sum() == mask.sum()
        np.testing.assert_array_equal(after, oracle(mask, drop_scores, grow_scores, percent))


@given(masked_trees())
def test_a_fraction_of_zero_keeps_the_masks(pair):
    params, masks = pair
    scores = magnitude(params, masks)
    moved = supjax.prune_and_grow(masks, scores, scores, 0.0)
    jax.tree.map(np.testing.assert_array_equal, moved, masks)


@given(masked_trees(), st.integers(0, 30))
def test_global_pruning_keeps_what_the_oracle_keeps(pair, keep):
    params, masks = pair
    keep = min(keep, supjax.count_maskable(masks))
    scores = magnitude(params, masks)
    pruned = supjax.prune_globally(masks, scores, keep)
    assert supjax.count_active(pruned) == min(keep, supjax.count_active(masks))
    flat = [
        np.concatenate([np.asarray(x, np.float32).ravel() for x in jax.tree.leaves(tree)])
        for tree in (scores, masks, pruned)
    ]
    np.testing.assert_array_equal(flat[2], best(flat[0], keep, flat[1] > 0))


@given(masked_trees(), st.integers(0, 25), st.integers(0, 2**16))
def test_dropping_and_growing_are_clipped_to_what_there_is(pair, count, seed):
    _, masks = pair
    scores = jax.tree.map(
        lambda m: jnp.asarray(values("ties", np.random.RandomState(seed), m.shape), jnp.float32),
        masks,
    )
    active, sizes = active_counts(masks), layer_sizes(masks)
    counts = jnp.full(active.shape, count)
    dropped, grown = drop_smallest(masks, scores, counts), grow_largest(masks, scores, counts)
    np.testing.assert_array_equal(active_counts(dropped), jnp.maximum(active - count, 0))
    np.testing.assert_array_equal(active_counts(grown), jnp.minimum(active + count, sizes))
    for mask, less, more in zip(*map(jax.tree.leaves, (masks, dropped, grown)), strict=True):
        assert not (less & ~mask).any()
        assert not (mask & ~more).any()


@pytest.mark.parametrize("shape", [(1,), (5,), (4, 5), (2, 9, 1), (2, 2, 4, 4)])
@pytest.mark.parametrize("density", [1.0, 0.5, 0.05])
def test_counts_are_conserved_for_every_shape(shape, density):
    masks = supjax.init_masks(jax.random.key(0), jnp.ones(shape), density, filter_fn=anything)
    scores = random_scores(jax.random.key(1), masks)
    moved = supjax.prune_and_grow(masks, scores, scores, 0.3)
    assert supjax.count_active(moved) == supjax.count_active(masks) == round_half_up(density, shape)


def anything(path, leaf):
    return True


def round_half_up(density, shape):
    return int(Fraction(str(density)) * math.prod(shape) + Fraction(1, 2))


@pytest.mark.parametrize(
    ("fraction", "present"),
    [
        (0.0, {1, 3, 5, 6}),
        (0.25, {0, 1, 3, 5}),  # 6 (score -2) goes, 0 (score 9) comes
        (0.5, {0, 1, 4, 5}),  # 6 and 3 (-1) go, 0 and 4 (5) come
        (0.75, {0, 2, 4, 5}),  # 1 (score 1) goes as well, 2 (4) comes
        (1.0, {0, 2, 4, 5}),  # 5 (score 8) goes and comes back
    ],
)
def test_signed_drop_scores_by_hand(fraction, present):
    drop = jnp.array([-9.0, 1, 4, -1, 5, 8, -2, 3])
    mask = jnp.array([i in {1, 3, 5, 6} for i in range(8)])
    moved = supjax.prune_and_grow(mask, drop, jnp.abs(drop), fraction)
    assert set(np.flatnonzero(moved).tolist()) == present


def test_of_equal_scores_the_lower_half_stays():
    mask = jnp.ones(10, bool)
    assert np.flatnonzero(drop_smallest(mask, jnp.ones(10), [5])).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(supjax.prune_globally(mask, jnp.ones(10), 5)).tolist() == [0, 1, 2, 3, 4]


def test_active_weights_of_exactly_zero_are_dropped_one_by_one():
    weights = jnp.where(jnp.arange(40) < 30, 0.0, 1.0)
    mask = jnp.ones(40, bool)
    pruned = drop_smallest(mask, weights, jnp.array([4]))
    assert np.flatnonzero(~pruned).tolist() == [26, 27, 28, 29]


def test_a_threshold_of_zero_makes_nothing_dense():
    weights = jnp.array([0.0, 0.0, 0.0, 2.0, 1.0, 0.0])
    mask = jnp.array([True, True, False, True, True, False])
    assert supjax.prune_globally(mask, weights, 3).tolist() == [
        True,
        False,
        False,
        True,
        True,
        False,
    ]


def test_growth_without_any_gradient_lands_on_free_places():
    mask = jnp.array([True, True, False, True, False, False])
    weights = jnp.array([3.0, 1.0, 0.0, 2.0, 0.0, 0.0])
    moved = supjax.prune_and_grow(mask, weights, jnp.zeros(6), 0.5)
    assert np.flatnonzero(moved).tolist() == [0, 1, 2]


def test_scores_that_are_not_numbers_lose():
    scores = jnp.array([jnp.nan, 1.0, jnp.inf, -jnp.inf])
    full, empty = jnp.ones(4, bool), jnp.zeros(4, bool)
    assert drop_smallest(full, scores, [1]).tolist() == [False, True, True, True]
    assert grow_largest(empty, scores, [3]).tolist() == [False, True, True, True]


def test_a_weight_that_is_dropped_and_regrown_keeps_value_and_momentum():
    mask = jnp.array([True, True, False])
    weights, momentum = jnp.array([5.0, 1.0, 0.0]), jnp.array([0.5, 0.1, 0.0])
    moved = supjax.prune_and_grow(mask, weights, jnp.array([0.0, 9.0, 1.0]), 0.5)
    assert moved.tolist() == [True, True, False]
    assert supjax.apply_masks(momentum, moved).tolist() == momentum.tolist()


def test_random_scores_differ_by_leaf_and_key():
    masks = {"a": jnp.ones((4, 4), bool), "b": [jnp.ones((4, 4), bool), None]}
    scores = random_scores(jax.random.key(0), masks)
    assert scores["b"][1] is None
    assert (scores["a"] != scores["b"][0]).any()
    assert (scores["a"] == random_scores(jax.random.key(0), masks)["a"]).all()
    assert (scores["a"] != random_scores(jax.random.key(1), masks)["a"]).any()


def test_the_fraction_may_be_traced():
    mask = jnp.arange(10) < 5
    scores = jnp.arange(10.0)
    traces = []

    @jax.jit
    def move(fraction):
        traces.append(fraction)
        return supjax.prune_and_grow(mask, scores, scores, fraction)

    # ceil(0.3 * 5) = 2 of 0..4 go, 9 and 8 come; then all five.
    assert np.flatnonzero(move(0.3)).tolist() == [2, 3, 4, 8, 9]
    assert np.flatnonzero(move(1.0)).tolist() == [5, 6, 7, 8, 9]
    assert len(traces) == 1


MASK, SCORES = {"w": jnp.ones((2, 2), bool)}, {"w": jnp.ones((2, 2))}
HALVES, EMPTY = {"w": jnp.ones(4)}, {}
BAD = [
    (lambda: supjax.prune_and_grow(MASK, {"w": jnp.ones((2, 2), int)}, SCORES, 0.5), TypeError,
     "scores must be floating-point, got int32"),
    (lambda: supjax.prune_and_grow(MASK, HALVES, SCORES, 0.5), ValueError,
     "mask at 'w' has shape (2, 2), scores have (4,)"),
    (lambda: supjax.prune_and_grow(MASK, SCORES, EMPTY, 0.5), ValueError,
     "scores and masks differ: scores have no leaf at 'w'"),
    (lambda: supjax.prune_globally(SCORES, SCORES, 1), TypeError,
     "mask at 'w' must be a bool array, got float32"),
    (lambda: supjax.prune_globally(MASK, SCORES, 5), ValueError, "k must be in [0, 4], got 5"),
    (lambda: supjax.prune_globally(MASK, SCORES, 0.5), TypeError, "k must be an integer, got 0.5"),
    (lambda: supjax.prune_globally({"v": MASK["w"]}, SCORES, 1), ValueError,
     "scores and masks differ: scores have no leaf at 'v'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
