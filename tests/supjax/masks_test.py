"""Mask algebra on any pytree: choosing, applying, counting, comparing, printing."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import supjax
from supjax.masks import as_masks, check_masks, leaf_key, map_maskable, paired
from supjax.trees import is_none
from tests.helpers.strategies import Layer, masked_trees, params_trees

KERNEL = jnp.array([[1.0, 0.0], [-2.0, 3.0]])
MASK = jnp.array([[True, False], [False, True]])
PARAMS = {"bias": jnp.zeros(2), "kernel": KERNEL}
MASKS = {"bias": None, "kernel": MASK}


def leaves(tree):
    return jax.tree.leaves(tree, is_leaf=is_none)


@given(params_trees())
def test_masks_live_on_kernels_and_keep_the_structure(params):
    masks = supjax.dense_masks(params)
    for weight, mask in zip(jax.tree.leaves(params), leaves(masks), strict=True):
        assert (mask is not None) == (weight.ndim > 1)
        if mask is not None:
            assert (mask.shape, mask.dtype) == (weight.shape, jnp.bool_)
    check_masks(params, masks)
    assert supjax.count_active(masks) == supjax.count_maskable(params)
    assert supjax.density(masks) == 1


@given(masked_trees())
def test_applying_masks_zeroes_the_rest_and_nothing_else(pair):
    params, masks = pair
    masked = supjax.apply_masks(params, masks)
    assert jax.tree.structure(masked) == jax.tree.structure(params)
    rows = zip(leaves(params), leaves(masked), leaves(masks), strict=True)
    for before, after, mask in rows:
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        kept = np.ones(before.shape, bool) if mask is None else np.asarray(mask)
        np.testing.assert_array_equal(np.where(kept, before, 0), after)


@given(masked_trees())
def test_counts_are_those_of_numpy(pair):
    params, masks = pair
    sizes = [m.size for m in jax.tree.leaves(masks)]
    active = [int(np.sum(m)) for m in jax.tree.leaves(masks)]
    assert supjax.count_maskable(params) == supjax.count_maskable(masks) == sum(sizes)
    assert supjax.count_active(masks) == sum(active)
    assert supjax.density(masks) == sum(active) / sum(sizes)


@given(masked_trees(kinds=("distinct",)))
def test_masks_are_read_off_the_non_zeros(pair):
    params, masks = pair
    found = supjax.nonzero_masks(supjax.apply_masks(params, masks))
    jax.tree.map(np.testing.assert_array_equal, found, masks)


@given(masked_trees())
def test_a_mask_compared_with_itself_and_with_its_opposite(pair):
    _, masks = pair
    opposite = jax.tree.map(jnp.logical_not, masks)
    assert supjax.iou(masks, masks) == 1
    assert supjax.iou(masks, opposite) == 0


def test_overlap_by_hand():
    other = {"bias": None, "kernel": jnp.array([[True, True], [False, False]])}
    assert supjax.iou(MASKS, other) == 1 / 3
    empty = {"kernel": jnp.zeros((2, 2), bool)}
    assert supjax.iou(empty, empty) == 1
    assert supjax.iou(PARAMS, MASKS) == 2 / 3  # the non-zeros of the params


def test_counting_works_under_jit():
    traced = jax.jit(lambda m: (supjax.count_active(m), supjax.density(m), supjax.iou(m, m)))
    assert [float(x) for x in traced(MASKS)] == [2, 0.5, 1]


def test_counts_above_two_to_the_24_are_exact():
    mask = np.ones(2**24 + 3, bool)
    assert supjax.count_active({"a": mask, "b": mask[:2]}) == 2**24 + 5
    assert int(jax.jit(supjax.count_active)({"a": mask})) == 2**24 + 3


def test_sizes_above_two_to_the_31_are_exact():
    shapes = {"w": jax.ShapeDtypeStruct((2**16, 2**16), jnp.bool_)}
    assert supjax.count_maskable([shapes, shapes]) == 2**33


def test_a_zero_bias_is_no_pruned_weight():
    assert supjax.count_maskable(PARAMS) == 4
    assert supjax.count_active(PARAMS) == 3
    last = supjax.summary(PARAMS, MASKS).splitlines()[-1].split()
    assert last == ["all", "6", "4", "0.6667"]


def test_summary_by_hand():
    params = [Layer(jnp.zeros((3, 3, 8, 16)), jnp.zeros(())), {"head": KERNEL}]
    kept = jnp.arange(1152).reshape(3, 3, 8, 16) < 288
    assert supjax.summary(params, [Layer(kept, None), {"head": MASK}]).splitlines() == [
        "layer        shape  weights  active  density",
        "0/first   3x3x8x16    1,152     288   0.2500",
        "0/second    scalar        1       1    dense",
        "1/head         2x2        4       2   0.5000",
        "maskable              1,156     290   0.2509",
        "all                   1,157     291   0.2515",
    ]


def test_masking_stops_nan_and_infinity():
    kernel = jnp.array([[1.0, jnp.nan], [jnp.inf, 3.0]])
    masked = supjax.apply_masks({"bias": jnp.zeros(2), "kernel": kernel}, MASKS)
    assert masked["kernel"].tolist() == [[1, 0], [0, 3]]


def test_a_filter_chooses_by_path_and_leaf():
    params = {"stem": KERNEL, "body": [KERNEL, jnp.ones(3)]}
    masks = supjax.dense_masks(params, lambda path, leaf: "body" in path and leaf.ndim == 2)
    assert masks["stem"] is None
    assert masks["body"][0].all()
    assert masks["body"][1] is None


def test_paths_of_every_container():
    seen = []
    map_maskable(lambda path, _: seen.append(path), {"a": [Layer(KERNEL, (KERNEL,))]})
    assert seen == ["a/0/first", "a/0/second/0"]


def test_params_may_hold_none():
    params = {"kernel": KERNEL, "frozen": None}
    masks = supjax.dense_masks(params)
    assert jax.tree.leaves(supjax.apply_masks(params, masks))[0] is not None
    assert [path for path, _, _ in paired(params, masks)] == ["kernel"]


def test_the_key_of_a_leaf_depends_on_its_path_alone():
    key = jax.random.key(3)
    assert leaf_key(key, "a/kernel") == leaf_key(key, "a/kernel")
    assert leaf_key(key, "a/kernel") != leaf_key(key, "b/kernel")
    assert leaf_key(key, "a/kernel") != leaf_key(jax.random.key(4), "a/kernel")


def test_masks_pass_as_masks_and_params_as_their_non_zeros():
    assert as_masks(MASKS) is MASKS
    assert as_masks(PARAMS)["kernel"].tolist() == [[True, False], [True, True]]


INTEGERS = {"kernel": jnp.ones((2, 2), jnp.int32)}
WIDE = {"bias": None, "kernel": jnp.ones((2, 3), bool)}
DIFFER = "params and masks differ"
BAD = [
    (lambda: supjax.apply_masks(PARAMS, {"kernel": MASK}), ValueError,
     f"{DIFFER}: masks have no leaf at 'bias'"),
    (lambda: supjax.apply_masks({"kernel": KERNEL}, MASKS), ValueError,
     f"{DIFFER}: params have no leaf at 'bias'"),
    (lambda: supjax.apply_masks(PARAMS, WIDE), ValueError,
     "mask at 'kernel' has shape (2, 3), params have (2, 2)"),
    (lambda: supjax.apply_masks({"kernel": None}, {"kernel": MASK}), ValueError,
     "mask at 'kernel' has shape (2, 2), params have None"),
    (lambda: supjax.apply_masks(PARAMS, {"bias": None, "kernel": KERNEL}), TypeError,
     "mask at 'kernel' must be a bool array, got float32"),
    (lambda: supjax.apply_masks(PARAMS, {"bias": None, "kernel": True}), TypeError,
     "mask at 'kernel' must be a bool array, got bool"),
    (lambda: supjax.summary(PARAMS, {"kernel": MASK}), ValueError,
     f"{DIFFER}: masks have no leaf at 'bias'"),
    (lambda: supjax.dense_masks({"scale": 1.0}), TypeError,
     "params must be arrays, got float at 'scale'"),
    (lambda: supjax.dense_masks(INTEGERS, lambda path, leaf: True), TypeError,
     "only floating-point weights can be sparse, got int32 at 'kernel'"),
    (lambda: supjax.nonzero_masks([1.0]), TypeError, "params must be arrays, got float at '0'"),
    (lambda: supjax.count_active({"w": 1.0}), TypeError,
     "params must be arrays, got float at 'w'"),
    (lambda: supjax.count_maskable({"w": 1.0}), TypeError,
     "params must be arrays, got float at 'w'"),
    (lambda: supjax.density({"bias": jnp.ones(3)}), ValueError,
     "a tree without maskable weights has no density"),
    (lambda: supjax.density({}), ValueError, "a tree without maskable weights has no density"),
    (lambda: supjax.iou(MASKS, {"kernel": MASK}), ValueError,
     "the first masks and the second masks differ: the second masks have no leaf at 'bias'"),
    (lambda: supjax.iou(MASKS, WIDE), ValueError,
     "masks at 'kernel' have shapes (2, 2) and (2, 3)"),
    (lambda: supjax.iou(MASKS, {"bias": MASK[0], "kernel": MASK}), ValueError,
     "masks at 'bias' have shapes None and (2,)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[-1] for row in BAD])
def test_bad_input_names_the_path(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
