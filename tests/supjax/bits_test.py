"""Masks as bits: what goes in comes out, in the layout that the module promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from supjax.bits import pack_masks, unpack_masks
from tests.helpers.strategies import masked_trees


@given(masked_trees())
def test_masks_come_back(tree):
    params, masks = tree
    packed = pack_masks(masks)
    again = unpack_masks(params, packed)
    assert jax.tree.structure(again) == jax.tree.structure(masks)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), again, masks)
    assert {leaf.dtype for leaf in jax.tree.leaves(packed)} == {np.dtype(np.uint8)}


@pytest.mark.parametrize(
    "shape", [(), (1,), (9,), (0, 3), (3, 0), (8, 5), (9, 5), (3, 3, 4, 8), (2, 0, 3, 4), (1, 17)]
)
def test_any_shape_compiled(shape):
    mask = jnp.asarray(np.random.default_rng(0).random(shape) < 0.5)

    @jax.jit
    def round_trip(mask):
        return unpack_masks({"w": mask}, pack_masks({"w": mask}))["w"]

    np.testing.assert_array_equal(round_trip(mask), mask, strict=True)


def test_eight_rows_share_their_bytes():
    mask = np.random.default_rng(1).random((3, 6, 4)) < 0.5
    packed = np.asarray(pack_masks(jnp.asarray(mask)))
    expected = np.packbits(mask, axis=-2, bitorder="little")
    np.testing.assert_array_equal(packed, expected)
    assert packed.shape == (3, 1, 4)
