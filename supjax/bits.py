"""Masks at one bit a weight, in a layout that a compiled pass over the weights unpacks for free.

Eight rows share the bytes of one: bit r of `packed[..., i, c]` is `mask[..., 8 i + r, c]`, a row
being what runs along the last axis. Reading along a row is then reading along a row of bytes, which
compilers vectorize, and a byte comes eight times from a cache instead of eight bytes once from
memory. An optimizer's step is bound by memory: on a CPU, `bool` masks slow it down by an eighth,
bits by a hundredth (benchmarks/sparsify_overhead.py). All axes but one are those of the weights,
so that bits are sharded, stacked and mapped over as these are.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supjax.placement import ROWS, automatic, packed_spec, placed_bits, placed_like, spec_of
from supjax.types import Masks, PyTree


def pack_masks(masks: Masks) -> PyTree:
    """Return the masks' tree with `[..., ceil(rows / 8), columns]` uint8 arrays.

    >>> pack_masks({"b": None, "k": jnp.array([[True, False], [True, True]])})
    {'b': None, 'k': Array([[3, 2]], dtype=uint8)}
    """

    def grouped(mask: jax.Array) -> jax.Array:
        mask = mask.reshape((1,) * (2 - mask.ndim) + mask.shape)
        *stack, rows, columns = mask.shape
        padded = jnp.pad(mask, [*[(0, 0)] * len(stack), (0, -rows % ROWS), (0, 0)])
        groups = padded.reshape(*stack, -(-rows // ROWS), ROWS, columns).astype(jnp.uint8)
        return jnp.sum(groups << _row_of_bit(groups.ndim), axis=-2, dtype=jnp.uint8)

    def pack(mask: jax.Array) -> jax.Array:
        return placed_bits(automatic(grouped, mask, out=packed_spec(mask)), mask)

    return jax.tree.map(pack, masks)


def unpack_masks(like: PyTree, packed: PyTree) -> Masks:
    """Return the masks that `pack_masks` packed; of `like`, only nodes and shapes are read.

    Both trees may have a common leading axis more than at packing, as `jax.vmap` adds.

    >>> params = {"b": jnp.ones(2), "k": jnp.ones((2, 2))}
    >>> unpack_masks(params, {"b": None, "k": jnp.array([[3, 2]], jnp.uint8)})["k"].tolist()
    [[True, False], [True, True]]
    """

    def separate(leaf: Any, groups: jax.Array) -> jax.Array:
        *stack, count, columns = groups.shape
        rows = leaf.shape[-2] if leaf.ndim == groups.ndim else 1  # a vector is one row
        bits = (groups[..., None, :] >> _row_of_bit(groups.ndim + 1)) & np.uint8(1)
        return (bits != 0).reshape(*stack, ROWS * count, columns)[..., :rows, :].reshape(leaf.shape)

    def unpack(leaf: Any, groups: Any) -> Any:
        if groups is None:
            return None
        mask = automatic(partial(separate, leaf), groups, out=spec_of(leaf))
        # A compiler that splits the weights splits what it unpacks beside them.
        return mask if isinstance(mask, jax.core.Tracer) else placed_like(mask, leaf)

    return jax.tree.map(unpack, like, packed)


def _row_of_bit(ndim: int) -> np.ndarray:
    """Return 0 to 7 along the last axis but one of `ndim`."""
    return np.arange(ROWS, dtype=np.uint8).reshape((1,) * (ndim - 2) + (ROWS, 1))
