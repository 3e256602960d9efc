"""Exact masks of the k largest scores, in one array or over a whole tree, without a sort.

The score's bit pattern becomes an unsigned integer that orders like the score. The k-th largest
of these keys is found digit by digit with counting passes, and ties at that key are resolved by
the lowest flat index. Everything is integer arithmetic: XLA may flush denormals in float
arithmetic, and float counts go wrong above 2^24 elements.
"""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supjax.types import Masks, PyTree, Scalar

_DIGIT_BITS = 2
_BLOCK = 4096
_MAX_SIZE = 2**31 - 1


def top_k_mask(scores: jax.Array, k: Scalar, *, where: jax.Array | None = None) -> jax.Array:
    """Mask of the k largest scores, with exactly `min(k, number of eligible scores)` ones.

    `mask[i] = where[i] and #{j eligible: (s_j, -j) > (s_i, -i)} < k` in flat order: ties go to the
    lowest index. -0.0 equals 0.0, denormals are ordered, and NaN comes after -inf, so a NaN is
    selected only when every eligible number already is.

    Args:
      scores: floating-point array of any shape.
      k: number of ones. An int must lie in [0, scores.size]; an array may be traced (changing it
        recompiles nothing) and is clipped to [0, number of eligible scores].
      where: bool array of the scores' shape; False entries are never selected. None means all.

    Returns:
      A bool array of the scores' shape.

    Raises:
      TypeError: if scores are not floating, k is not an integer or where is not bool.
      ValueError: if an int k is out of range, k is not a scalar, or the shapes differ.

    >>> import jax.numpy as jnp
    >>> top_k_mask(jnp.array([1.0, 3.0, 2.0, 3.0, 2.0]), 3)
    Array([False,  True,  True,  True, False], dtype=bool)
    """
    return global_top_k_masks(scores, k, where=where)


def global_top_k_masks(scores: PyTree, k: Scalar, *, where: PyTree | None = None) -> Masks:
    """Masks of the k largest scores over all leaves together.

    Like `top_k_mask` of all leaves concatenated in `jax.tree.leaves` order, but nothing is
    concatenated. Leaves of different precision are compared by value.

    Args:
      scores: pytree of floating-point arrays; None leaves are passed through.
      k: number of ones in all leaves together; see `top_k_mask`.
      where: the tree of the scores with bool leaves; False entries are never selected, a None
        leaf makes the whole leaf eligible.

    Returns:
      The tree of the scores with bool leaves, None where the score is None.

    Raises:
      TypeError: if a score is not floating, k is not an integer or a where leaf is not bool.
      ValueError: if an int k is out of range, k is not a scalar, or trees or shapes differ.

    >>> import jax.numpy as jnp
    >>> global_top_k_masks({"a": jnp.array([1.0, 4.0]), "b": None, "c": jnp.array([4.0])}, 1)
    {'a': Array([False,  True], dtype=bool), 'b': None, 'c': Array([False], dtype=bool)}
    """
    treedef: Any
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(
        scores, is_leaf=lambda leaf: leaf is None
    )
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths_and_leaves]
    leaves = [leaf for _, leaf in paths_and_leaves]
    if where is None:
        wheres = [None] * len(leaves)
    else:
        try:
            wheres = treedef.flatten_up_to(where)
        except ValueError as error:
            raise ValueError(f"where must have the tree of scores: {error}") from None
    kept = [i for i, leaf in enumerate(leaves) if leaf is not None]
    checked = [_check_leaf(paths[i], leaves[i], wheres[i]) for i in kept]
    count = _check_k(k, sum(leaf.size for leaf, _ in checked))
    selected = _select(checked, count) if checked else []
    masks: list[Any] = [None] * len(leaves)
    for i, mask in zip(kept, selected, strict=True):
        masks[i] = mask
    return jax.tree.unflatten(treedef, masks)


def _check_leaf(path: str, scores: Any, where: Any) -> tuple[jax.Array, jax.Array | None]:
    """Scores and eligibility of one leaf as arrays."""
    at = f" at {path}" if path else ""
    dtype = jnp.result_type(scores)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"scores must be floating-point, got {dtype}{at}")
    scores = jnp.asarray(scores)
    if where is None:
        return scores, None
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_:
        raise TypeError(f"where must be bool, got {where.dtype}{at}")
    if where.shape != scores.shape:
        raise ValueError(f"where must have the shape {scores.shape}, got {where.shape}{at}")
    return scores, where


def _check_k(k: Scalar, size: int) -> jax.Array:
    """Validate k and make it an int32 scalar."""
    if size > _MAX_SIZE:
        raise ValueError(f"at most {_MAX_SIZE} scores can be compared, got {size}")
    if isinstance(k, jax.Array):
        if not jnp.issubdtype(k.dtype, jnp.integer):
            raise TypeError(f"k must be an integer, got {k.dtype}")
        if k.shape != ():
            raise ValueError(f"k must be a scalar, got shape {k.shape}")
        return jnp.clip(k, 0, size).astype(jnp.int32)
    try:
        k = operator.index(k)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"k must be an integer, got {k!r}") from None
    if not 0 <= k <= size:
        raise ValueError(f"k must be in [0, {size}], got {k}")
    return jnp.asarray(k, jnp.int32)


@jax.jit
def _select(leaves: list[tuple[jax.Array, jax.Array | None]], k: jax.Array) -> list[jax.Array]:
    """Masks of the k largest scores over all leaves."""
    dtype = jnp.result_type(*(scores.dtype for scores, _ in leaves))
    keys = [_order_keys(scores, where, dtype).reshape(-1) for scores, where in leaves]
    eligible = sum(jnp.sum(key > 0, dtype=jnp.int32) for key in keys)
    k = jnp.minimum(k, eligible)
    threshold = _kth_largest(keys, k)
    spare = k - sum(jnp.sum(key > threshold, dtype=jnp.int32) for key in keys)
    masks = []
    for (scores, _), key in zip(leaves, keys, strict=True):
        tied = key == threshold
        ties = jnp.sum(tied, dtype=jnp.int32)
        end = _end_of_first(key, threshold, jnp.clip(spare, 0, ties))
        index = jnp.arange(key.size, dtype=jnp.int32)
        masks.append(((key > threshold) | (tied & (index < end))).reshape(scores.shape))
        spare -= ties
    return masks


def _order_keys(scores: jax.Array, where: jax.Array | None, dtype: Any) -> jax.Array:
    """Unsigned integers that order like the scores: 0 if ineligible, 1 for NaN, more for numbers.

    A number's bits order like its magnitude, so a positive one gets the sign bit set and a
    negative one all bits flipped. Flipped bits of -inf leave the lowest keys free.
    """
    if dtype == jnp.float32 and scores.dtype == jnp.bfloat16:
        bits = jax.lax.bitcast_convert_type(scores, jnp.uint16).astype(jnp.uint32) << 16
    else:
        scores = scores.astype(dtype)
        bits = jax.lax.bitcast_convert_type(scores, f"uint{8 * scores.dtype.itemsize}")
    unsigned = bits.dtype.type
    info = jnp.finfo(dtype)
    sign = unsigned(1 << (info.bits - 1))
    infinity = unsigned(((1 << info.nexp) - 1) << info.nmant)
    magnitude = bits & ~sign
    key = jnp.where(bits > sign, ~bits, magnitude | sign)
    key = jnp.where(magnitude > infinity, unsigned(1), key)
    return key if where is None else jnp.where(where, key, unsigned(0))


def _kth_largest(keys: list[jax.Array], k: jax.Array) -> jax.Array:
    """The largest key that at least k keys reach, digit by digit from the highest."""
    unsigned = keys[0].dtype
    bits = 8 * unsigned.itemsize
    digits = np.arange(1, 1 << _DIGIT_BITS, dtype=unsigned)

    def refine(step: jax.Array, prefix: jax.Array) -> jax.Array:
        shift = (bits - _DIGIT_BITS * (step + 1)).astype(unsigned)
        pivots = prefix + (digits << shift)
        counts = [sum(jnp.sum(key >= pivot, dtype=jnp.int32) for key in keys) for pivot in pivots]
        digit = jnp.sum(jnp.stack(counts) >= k, dtype=unsigned)
        return prefix + (digit << shift)

    return jax.lax.fori_loop(0, math.ceil(bits / _DIGIT_BITS), refine, jnp.zeros((), unsigned))


def _end_of_first(key: jax.Array, value: jax.Array, count: jax.Array) -> jax.Array:
    """The smallest index before which `key == value` holds `count` times."""
    size = key.size
    block = min(size, _BLOCK)
    if not size:
        return jnp.zeros((), jnp.int32)
    blocks = math.ceil(size / block)
    tied = jnp.pad(key == value, (0, blocks * block - size)).reshape(blocks, block)
    ends = jnp.cumsum(jnp.sum(tied, axis=1, dtype=jnp.int32))
    first = jnp.sum(ends < count, dtype=jnp.int32)
    before = jnp.sum(jnp.where(jnp.arange(blocks) == first - 1, ends, 0))
    start = jnp.minimum(first * block, size - block)
    row = jax.lax.dynamic_slice(key, (start,), (block,)) == value
    index = start + jnp.arange(block, dtype=jnp.int32)
    seen = jnp.cumsum(row & (index >= first * block), dtype=jnp.int32)
    end = start + jnp.sum(seen < count - before, dtype=jnp.int32) + 1
    return jnp.where(count > 0, end, 0)
