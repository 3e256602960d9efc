"""Masks at one bit a weight, in a layout that a compiled pass over the weights unpacks for free.

Eight rows share the bytes of one: bit r of `packed[i, c]` is `mask[8 i + r, c]`, with all axes but
the last counted as rows. Reading along a row is then reading along a row of bytes, which compilers
vectorize, and a byte comes eight times from a cache instead of eight bytes once from memory. An
optimizer's step is bound by memory: on a CPU, `bool` masks slow it down by an eighth, bits by a
hundredth (benchmarks/sparsify_overhead.py).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supjax.types import Masks, Params, PyTree

_ROW_OF_BIT = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)


def pack_masks(masks: Masks) -> PyTree:
    """Return the masks' tree with `[ceil(rows / 8), columns]` uint8 arrays.

    >>> pack_masks({"b": None, "k": jnp.array([[True, False], [True, True]])})
    {'b': None, 'k': Array([[3, 2]], dtype=uint8)}
    """

    def pack(mask: jax.Array) -> jax.Array:
        rows, columns = _rows_and_columns(mask.shape)
        padded = jnp.pad(mask.reshape(rows, columns), ((0, -rows % 8), (0, 0)))
        groups = padded.reshape(-(-rows // 8), 8, columns).astype(jnp.uint8)
        return jnp.sum(groups << _ROW_OF_BIT, axis=1, dtype=jnp.uint8)

    return jax.tree.map(pack, masks)


def unpack_masks(params: Params, packed: PyTree) -> Masks:
    """Return the masks of the params that `pack_masks` packed.

    >>> params = {"b": jnp.ones(2), "k": jnp.ones((2, 2))}
    >>> unpack_masks(params, {"b": None, "k": jnp.array([[3, 2]], jnp.uint8)})["k"].tolist()
    [[True, False], [True, True]]
    """

    def unpack(weight: Any, groups: Any) -> Any:
        if groups is None:
            return None
        rows, columns = _rows_and_columns(weight.shape)
        bits = (groups[:, None] >> _ROW_OF_BIT) & np.uint8(1)
        return (bits != 0).reshape(8 * groups.shape[0], columns)[:rows].reshape(weight.shape)

    return jax.tree.map(unpack, params, packed)


def _rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[:-1]), shape[-1] if shape else 1
