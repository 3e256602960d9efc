"""Exact masks of the k largest scores, in one array or over a whole tree."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supjax.bisection import MAX_SIZE, Leaf, select
from supjax.masks import is_none, path_str
from supjax.types import Masks, PyTree, Scalar


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

    Like `top_k_mask` of all leaves concatenated in `jax.tree.leaves` order, but without a copy of
    the scores. Leaves of different precision are compared by value (but next to a float64 leaf,
    denormals of a narrower one may count as zeros).

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
    entries, treedef = jax.tree_util.tree_flatten_with_path(scores, is_leaf=is_none)
    paths = [path_str(path) for path, _ in entries]
    flags = [None] * len(paths) if where is None else _leaves_at(paths, where)
    leaves = [
        _check_leaf(path, leaf, flag)
        for path, (_, leaf), flag in zip(paths, entries, flags, strict=True)
        if leaf is not None
    ]
    masks = iter(select(leaves, _check_k(k, sum(leaf.size for leaf, _ in leaves))))
    return treedef.unflatten(None if leaf is None else next(masks) for _, leaf in entries)


def largest_weight_masks(weights: PyTree, k: Scalar) -> Masks:
    """Masks of the k largest magnitudes `|w|` over all leaves together; a zero is never selected.

    Like `global_top_k_masks` of the magnitudes, where they are not zero, but stores neither.

    Args:
      weights: pytree of floating-point arrays; None leaves are passed through.
      k: number of ones in all leaves together; see `top_k_mask`.

    Returns:
      The tree of the weights with bool leaves. Ties go to the lowest leaf and index, and a NaN is
      selected only when every non-zero number already is.

    Raises:
      TypeError: if k is not an integer.
      ValueError: if an int k is out of range.

    >>> import jax.numpy as jnp
    >>> largest_weight_masks({"a": jnp.array([1.0, -4.0]), "b": jnp.array([0.0])}, 3)
    {'a': Array([ True,  True], dtype=bool), 'b': Array([False], dtype=bool)}
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(weights)
    count = _check_k(k, sum(leaf.size for leaf in leaves))
    return treedef.unflatten(select([(leaf, None) for leaf in leaves], count, magnitudes=True))


def _leaves_at(paths: list[str], where: PyTree) -> list[Any]:
    """Leaves of `where`, None included, which must stand at these paths."""
    entries = jax.tree_util.tree_flatten_with_path(where, is_leaf=is_none)[0]
    flags = {path_str(path): leaf for path, leaf in entries}
    differing = flags.keys() ^ set(paths)
    if differing:
        raise ValueError(f"scores and where differ: only one has a leaf at {min(differing)!r}")
    return [flags[path] for path in paths]


def _check_leaf(path: str, scores: Any, where: Any) -> Leaf:
    """Scores and eligibility of one leaf as arrays."""
    at = f" at {path!r}" if path else ""
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


def _check_k(k: Scalar, size: int) -> jax.Array | np.int32:
    """Validate k; an array is clipped later, where it may be traced."""
    if size > MAX_SIZE:
        raise ValueError(f"at most {MAX_SIZE} scores can be compared, got {size}")
    if isinstance(k, jax.Array):
        if not jnp.issubdtype(k.dtype, jnp.integer):
            raise TypeError(f"k must be an integer, got {k.dtype}")
        if k.shape != ():
            raise ValueError(f"k must be a scalar, got shape {k.shape}")
        return k
    try:
        k = operator.index(k)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"k must be an integer, got {k!r}") from None
    if not 0 <= k <= size:
        raise ValueError(f"k must be in [0, {size}], got {k}")
    return np.int32(k)
