import itertools
import re
from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from supjax import masks, selection
from supjax.selection import global_top_k_masks, largest_weight_masks, top_k_mask

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
SIZES = [0, 1, 2, 7, 64, 300]  # every size is a compilation
SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.0, 1e-45, -1e-45, 3e-45, 1e-40, 6e-8, np.inf, -np.inf, np.nan]


def oracle(scores: Any, k: int, where: Any = None) -> np.ndarray:
    """Sort by eligibility, then NaN last, then value, then index."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        values = np.asarray(scores).astype(np.float64).reshape(-1)
    eligible = np.ones(values.size, bool) if where is None else np.asarray(where).reshape(-1)
    nan = np.isnan(values)
    order = np.lexsort((np.arange(values.size), -np.where(nan, 0, values), nan, ~eligible))
    mask = np.zeros(values.size, bool)
    mask[order[: min(k, eligible.sum())]] = True
    return mask.reshape(np.shape(scores))


def random_scores(kind: str, rng: np.random.Generator, size: int, dtype: Any) -> np.ndarray:
    """Special values with many ties, any bit pattern at all, or a bell curve."""
    if kind == "special":
        return rng.choice(SPECIAL, size).astype(dtype)
    if kind == "bits":
        unsigned = np.dtype(f"uint{8 * jnp.dtype(dtype).itemsize}")
        return rng.integers(0, np.iinfo(unsigned).max, size, unsigned, endpoint=True).view(dtype)
    return rng.normal(size=size).astype(dtype)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, int, np.ndarray | None]:
    size = draw(st.sampled_from(SIZES))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["special", "bits", "normal"]))
    scores = random_scores(kind, rng, size, draw(st.sampled_from(DTYPES)))
    where = rng.random(size) < draw(st.sampled_from([0.0, 0.3, 0.9]))
    return scores, draw(st.integers(0, size)), draw(st.sampled_from([None, where]))


@given(problems())
def test_matches_a_stable_sort(problem):
    scores, k, where = problem
    mask = top_k_mask(scores, k, where=where)
    assert mask.dtype == jnp.bool_
    np.testing.assert_array_equal(mask, oracle(scores, k, where))


@pytest.mark.parametrize("size", [3, 17, 511, 512, 513, 1025, 4099])
def test_every_k_of_sizes_around_the_slices(size):
    scores = random_scores("special", np.random.default_rng(size), size, np.float32)
    for k in np.linspace(0, size, 11).astype(int):
        np.testing.assert_array_equal(top_k_mask(scores, k), oracle(scores, k))


@given(problems())
def test_largest_weights_are_those_of_the_nonzero_magnitudes(problem):
    weights, k, _ = problem
    mask = largest_weight_masks(weights, k)
    with np.errstate(invalid="ignore"):  # NumPy compares NaN in bfloat16 with a warning
        kept = weights != 0
    np.testing.assert_array_equal(mask, oracle(np.abs(weights), k, kept))


def test_largest_weights_over_leaves_of_different_precision():
    weights = {
        "a": jnp.array([-3.0, 0.0, 2.0]),
        "b": None,
        "c": jnp.array([[0.5, -2.5]], jnp.bfloat16),
    }
    masks = largest_weight_masks(weights, 3)
    assert masks["a"].tolist() == [True, False, True]
    assert masks["b"] is None
    assert masks["c"].tolist() == [[False, True]]
    everything = largest_weight_masks(weights, 5)
    assert sum(int(mask.sum()) for mask in jax.tree.leaves(everything)) == 4


def test_ties_go_to_the_lowest_index_and_zeros_are_equal():
    scores = jnp.array([-0.0, 1.0, 0.0, -0.0, 1.0, -1.0])
    picked = [np.flatnonzero(top_k_mask(scores, k)).tolist() for k in range(6)]
    assert picked == [[], [1], [1, 4], [0, 1, 4], [0, 1, 2, 4], [0, 1, 2, 3, 4]]


def test_nan_comes_after_minus_infinity_of_either_sign():
    scores = jnp.array([jnp.nan, -jnp.inf, -jnp.nan, jnp.inf])
    picked = [np.flatnonzero(top_k_mask(scores, k)).tolist() for k in range(5)]
    assert picked == [[], [3], [1, 3], [0, 1, 3], [0, 1, 2, 3]]


def test_denormals_keep_their_order():
    tiny = np.array([1, 3, 2, 0], np.uint32).view(np.float32)
    assert np.flatnonzero(top_k_mask(tiny, 1)).tolist() == [1]
    assert np.flatnonzero(top_k_mask(-tiny, 2)).tolist() == [0, 3]


def test_ineligible_scores_are_never_selected():
    scores, where = jnp.array([jnp.inf, jnp.nan, 1.0]), jnp.array([False, True, True])
    assert top_k_mask(scores, 3, where=where).tolist() == [False, True, True]
    assert not top_k_mask(scores, 3, where=jnp.zeros(3, bool)).any()


@pytest.mark.parametrize("kind", ["equal", "two values", "distinct"])
def test_a_million_scores(kind):
    rng = np.random.default_rng(0)
    scores = {
        "equal": np.full(1_000_000, -0.5, np.float32),
        "two values": rng.choice([0.0, 1e-3], 1_000_000).astype(np.float32),
        "distinct": rng.permutation(1_000_000).astype(np.float32),
    }[kind]
    for k in (1, 123_457, 999_999):
        order = np.argsort(-scores, stable=True)
        assert not np.asarray(top_k_mask(scores, k))[order[k:]].any()
        assert np.asarray(top_k_mask(scores, k))[order[:k]].all()


def test_odd_sizes_above_the_vector_width():
    scores = random_scores("normal", np.random.default_rng(1), 20_001, np.float32)
    np.testing.assert_array_equal(top_k_mask(scores, 1234), oracle(scores, 1234))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32, jnp.uint32])
@pytest.mark.parametrize("k", [0, 5, 127])
def test_traced_k_of_any_integer_type(dtype, k):
    scores = jnp.arange(7.0)
    mask = jax.jit(top_k_mask)(scores, jnp.asarray(k, dtype))
    np.testing.assert_array_equal(mask, oracle(scores, min(k, 7)))


def test_traced_k_below_zero_selects_nothing():
    assert not top_k_mask(jnp.arange(7.0), jnp.int32(-2)).any()


def test_another_k_recompiles_nothing():
    scores = jnp.linspace(-1, 1, 77)
    traces = []

    @jax.jit
    def traced(k):
        traces.append(k)
        return top_k_mask(scores, k)

    counts = [int(traced(k).sum()) for k in (3, 40, 77)]
    top_k_mask(scores, 1)
    compiled = selection.select._cache_size()
    counts += [int(top_k_mask(scores, k).sum()) for k in (5, 6)]
    assert counts == [3, 40, 77, 5, 6]
    assert len(traces) == 1
    assert selection.select._cache_size() == compiled


def test_vmap_over_scores_k_and_where():
    rng = np.random.default_rng(2)
    scores = random_scores("special", rng, 4 * 30, np.float32).reshape(4, 5, 6)
    where = rng.random((4, 5, 6)) < 0.6
    ks = np.array([0, 3, 17, 30], np.int32)
    masks = jax.vmap(lambda s, k, w: top_k_mask(s, k, where=w))(scores, ks, where)
    for mask, *problem in zip(masks, scores, ks, where, strict=True):
        np.testing.assert_array_equal(mask, oracle(*problem))


def test_pmap_and_sharded_scores_agree_with_one_device():
    rng = np.random.default_rng(3)
    scores = random_scores("special", rng, 4 * 36, np.float32).reshape(4, 6, 6)
    masks = jax.pmap(top_k_mask, in_axes=(0, None))(scores, 11)
    np.testing.assert_array_equal(masks, np.stack([oracle(s, 11) for s in scores]))

    mesh = jax.make_mesh((4,), ("rows",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    mask = jax.jit(top_k_mask)(jax.device_put(scores, spread), 50)
    np.testing.assert_array_equal(mask, oracle(scores, 50))


def test_gradients_pass_through_a_selection():
    weights = jnp.array([1.0, -3.0, 2.0])
    gradient = jax.grad(lambda w: jnp.sum(jnp.where(top_k_mask(jnp.abs(w), 2), w**2, 0.0)))
    assert gradient(weights).tolist() == [0.0, -6.0, 4.0]


class Block(NamedTuple):
    kernel: Any
    bias: Any


def nested_scores(rng: np.random.Generator) -> Any:
    def draw(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return random_scores("special", rng, int(np.prod(shape)), dtype).reshape(shape)

    return {
        "block": Block(draw((3, 5), np.float32), None),
        "list": [draw((0, 3), np.float32), draw((), np.float32), draw((11,), jnp.bfloat16)],
        "half": {"kernel": draw((2, 2, 2, 3), np.float16)},
    }


@given(st.integers(0, 2**16), st.integers(0, 51), st.booleans())
def test_global_masks_match_a_stable_sort_of_all_leaves(seed, k, restricted):
    rng = np.random.default_rng(seed)
    scores = nested_scores(rng)
    where = jax.tree.map(lambda s: rng.random(s.shape) < 0.5, scores) if restricted else None
    masks = global_top_k_masks(scores, k, where=where)
    joined = [
        None if tree is None else np.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(f)])
        for tree, f in [
            (scores, jax.tree.map(lambda s: s.astype(np.float64), scores)),
            (where, where),
        ]
    ]
    flat = np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(masks)])
    np.testing.assert_array_equal(flat, oracle(joined[0], k, joined[1]))
    assert masks["block"].bias is None
    assert jax.tree.structure(masks) == jax.tree.structure(scores)
    assert jax.tree.map(np.shape, masks) == jax.tree.map(np.shape, scores)


def test_global_masks_of_many_leaves():
    rng = np.random.default_rng(4)
    scores = [random_scores("normal", rng, size, np.float32) for size in [900, 33] + [5] * 12]
    masks = global_top_k_masks(scores, jnp.int32(321))
    np.testing.assert_array_equal(np.concatenate(masks), oracle(np.concatenate(scores), 321))


def test_a_none_leaf_in_where_makes_the_leaf_eligible():
    scores = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])}
    masks = global_top_k_masks(scores, 4, where={"a": None, "b": jnp.array([False, True])})
    assert jax.tree.map(np.ndarray.tolist, jax.device_get(masks)) == {
        "a": [True, True],
        "b": [False, True],
    }


def test_trees_without_scores():
    assert global_top_k_masks({"a": None, "b": []}, 0) == {"a": None, "b": []}
    assert global_top_k_masks(jnp.zeros((0, 2)), jnp.int32(3)).shape == (0, 2)


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_eight_bit_scores(dtype):
    scores = jnp.array([1.0, 3.0, -2.0, 3.0, 0.5], dtype)
    assert top_k_mask(scores, 3).tolist() == [True, True, False, True, False]


def test_float64_scores():
    with jax.enable_x64(True):
        scores = jnp.array([1.0, 1.0 + 2.0**-52, 5e-324, 0.0])
        assert scores.dtype == jnp.float64
        picked = [np.flatnonzero(top_k_mask(scores, k)).tolist() for k in range(4)]
    assert picked == [[], [1], [0, 1], [0, 1, 2]]


@pytest.mark.parametrize("size", [0, 5, 511, 512, 513, 10_000])
def test_both_ways_of_counting_agree(size):
    mask = jnp.asarray(np.random.default_rng(size).random(size) < 0.3)
    expected = int(np.asarray(mask).sum())
    assert masks._folded_count(mask) == masks._plain_count(mask) == expected


def test_no_sort_no_callback_and_less_memory_than_the_scores():
    size = 2**20
    lowered = jax.jit(top_k_mask).lower(jax.ShapeDtypeStruct((size,), jnp.float32), jnp.int32(5))
    assert not {"sort", "scatter", "custom_call"} & set(
        re.findall(r"stablehlo\.(\w+)", lowered.as_text())
    )
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 2 * size


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    export = jax.export.export(jax.jit(global_top_k_masks), platforms=[platform])
    assert export({"a": jnp.ones((4, 5)), "b": jnp.ones(3)}, jnp.int32(5)).platforms == (platform,)


ONES = jnp.ones(3)


@pytest.mark.parametrize(
    ("arguments", "where", "error", "message"),
    [
        ((jnp.arange(3), 1), None, TypeError, "scores must be floating-point, got int32"),
        (({"a": {"b": [ONES, True]}}, 1), None, TypeError, "got bool at 'a/b/1'"),
        ((ONES, -1), None, ValueError, "k must be in [0, 3], got -1"),
        ((ONES, 4), None, ValueError, "k must be in [0, 3], got 4"),
        ((ONES, 1.0), None, TypeError, "k must be an integer, got 1.0"),
        ((ONES, jnp.float32(1)), None, TypeError, "k must be an integer, got float32"),
        ((ONES, jnp.ones(2, int)), None, ValueError, "k must be a scalar, got shape (2,)"),
        ((ONES, 1), ONES, TypeError, "where must be bool, got float32"),
        (
            ({"a": ONES}, 1),
            {"a": jnp.ones(2, bool)},
            ValueError,
            "where must have the shape (3,), got (2,) at 'a'",
        ),
        (
            ({"a": ONES, "b": ONES}, 1),
            {"a": None},
            ValueError,
            "scores and where differ: only one has a leaf at 'b'",
        ),
    ],
)
def test_bad_input_is_named(arguments, where, error, message):
    with pytest.raises(error) as caught:
        global_top_k_masks(*arguments, where=where)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_scores_than_an_index_can_count():
    half = jax.ShapeDtypeStruct((2**30,), jnp.float32)
    with pytest.raises(ValueError, match="at most 2147483646 scores can be compared"):
        jax.eval_shape(lambda *leaves: global_top_k_masks(leaves, 1), *itertools.repeat(half, 2))
