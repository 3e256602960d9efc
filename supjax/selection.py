"""Exact masks of the k largest scores, in one array or over a whole tree.

A score's bit pattern becomes an unsigned integer that orders like the score, and the k-th largest
of these keys is found by bisection, with pivots guessed from the counts so far. Every pass over the
data counts the keys that reach a pivot; to keep passes cheap they do not run over the keys but over
one byte a score, which says where in the current bracket of keys the score lies. Brackets, each 256
times narrower than the one before, pin down a 32-bit key in five passes and a magnitude, which has
31 bits, in four. Scores that tie at the last one are cut off by index, found by the same bisection.
All of it is integer arithmetic, guesses apart: XLA flushes denormals in float arithmetic, and float
counts go wrong above 2^24 elements.
"""

import itertools
import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supjax.masks import count_true
from supjax.placement import automatic, spec_of
from supjax.trees import is_none, path_str
from supjax.types import Masks, PyTree, Scalar

Leaf = tuple[jax.Array, jax.Array | None]
"""Scores and where they are eligible; None means everywhere."""

MAX_SIZE = 2**31 - 2
"""Most scores that can be compared: counts, up to one more, are int32."""

_DIGIT_BITS = 8  # of a bracket: places beyond its ends count as its first and its last one
_LAST_BITS = 7  # so that a byte also tells the last bracket's places from those beyond its ends
_LANES = 64  # every slice is a multiple of this long
_GUESSES = 4  # then halves: counts that grow in jumps make bad guesses
_MIN_PIECES = 9  # XLA's CPU backend fuses a shorter concatenation into a slow scalar loop


@partial(jax.jit, static_argnames="magnitudes")
def select(leaves: list[Leaf], k: jax.Array, *, magnitudes: bool = False) -> list[jax.Array]:
    """Masks of the k largest scores over all leaves together.

    Args:
      leaves: floating-point scores, together at most `MAX_SIZE`, and where they are eligible.
      k: integer scalar, clipped to [0, number of eligible scores].
      magnitudes: whether to compare the scores' magnitudes; zeros are then not eligible, and no
        leaf may say where others are.

    Returns:
      A bool array for every leaf, in its shape; ties go to the lowest leaf and index.
    """
    specs = [spec_of(scores) for scores, _ in leaves]
    return automatic(partial(_select, magnitudes=magnitudes), leaves, k, out=specs)


def _select(leaves: list[Leaf], k: jax.Array, magnitudes: bool) -> list[jax.Array]:
    if not any(scores.size for scores, _ in leaves):
        return [jnp.zeros(scores.shape, bool) for scores, _ in leaves]
    dtype = jnp.result_type(*(_widened(scores).dtype for scores, _ in leaves))
    flat = [
        (
            jax.lax.stop_gradient(_widened(scores)).astype(dtype).reshape(-1),
            None if where is None else where.reshape(-1),
        )
        for scores, where in leaves
    ]
    size = sum(scores.size for scores, _ in flat)
    k = jnp.clip(k, 0, min(size, jnp.iinfo(k.dtype).max)).astype(jnp.int32)
    bits = 8 * dtype.itemsize
    if magnitudes:
        narrowed = _narrow(flat, _magnitude_keys, bits - 1, k)
    else:
        narrowed = _narrow(flat, _order_keys, bits, k)
    codes, threshold, lowest, reached, beyond = narrowed

    def selected(late: jax.Array) -> jax.Array:
        """All codes above the threshold, and those at it unless among the last `late` ones."""
        # The barrier keeps XLA from storing the index array outside of the loop.
        late, shown = jax.lax.optimization_barrier((late, codes))
        index = jax.lax.iota(jnp.uint32, size)
        return (shown > threshold) | ((shown == threshold) & (index < size - late))

    late, _, _ = _largest_reaching(
        lambda late: count_true(selected(late)),
        k,
        jnp.uint32(size + 1),
        jnp.where(lowest, k, reached),
        beyond,
    )
    ends = np.cumsum([scores.size for scores, _ in leaves])
    parts = jnp.split(selected(jnp.where(lowest, jnp.uint32(size), late)), ends[:-1])
    return [part.reshape(scores.shape) for part, (scores, _) in zip(parts, leaves, strict=True)]


def _widened(scores: jax.Array) -> jax.Array:
    """Eight-bit formats as bfloat16, which holds them all."""
    return scores.astype(jnp.bfloat16) if scores.dtype.itemsize == 1 else scores


def _narrow(
    flat: list[Leaf], keys: Callable[..., jax.Array], bits: int, k: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Codes that order all scores around the k-th largest one, and the code of that one.

    Args:
      flat: scores in one dimension, and where they are eligible.
      keys: gives the unsigned integers of a leaf that order like its scores.
      bits: how many bits the keys have.
      k: how many scores are wanted.

    Returns:
      One byte a score; the largest code that at least k scores reach; whether it stands for the
      key of ineligible scores alone; how many reach it; how many reach the next one. A tie at that
      code is a tie of the scores, unless exactly k scores reach it.
    """
    size = sum(scores.size for scores, _ in flat)
    unsigned = jnp.dtype(f"uint{8 * flat[0][0].dtype.itemsize}")

    def narrow(state: Any) -> Any:
        width, low, _, _, reached, beyond = state
        # The barrier keeps XLA from storing all keys outside of the loop.
        low, leaves = jax.lax.optimization_barrier((low, flat))
        last = width <= _LAST_BITS
        shift = jnp.where(last, 0, jnp.maximum(width, _DIGIT_BITS + 1) - _DIGIT_BITS)
        first = last.astype(unsigned)  # code of the bracket's first place

        def code(scores: jax.Array, where: jax.Array | None) -> jax.Array:
            key = keys(scores, where)
            place = jnp.minimum((key - low) >> shift.astype(unsigned), 255 - first)
            return jnp.where(key < low, 0, place + first).astype(jnp.uint8)

        codes = _map_flat(code, leaves)
        digit, reached, beyond = _largest_reaching(
            lambda digit: count_true(codes >= (digit + first).astype(jnp.uint8)),
            k,
            jnp.ones((), unsigned) << (width - shift).astype(unsigned),
            reached,
            beyond,
            guesses=jnp.where(width < bits, _GUESSES, 0),  # the first bracket holds all exponents
        )
        low += digit << shift.astype(unsigned)
        return shift, low, codes, digit + first, reached, beyond

    state = (
        jnp.int32(bits),  # that the bracket is wide
        jnp.zeros((), unsigned),  # its lowest key
        jnp.zeros(size, jnp.uint8),
        jnp.zeros((), unsigned),
        jnp.int32(size + 1),  # so that even all scores are looked at: some may be ineligible
        jnp.int32(0),
    )
    _, low, codes, threshold, reached, beyond = jax.lax.while_loop(
        lambda state: (state[0] > 0) & (state[-2] > k), narrow, state
    )
    return codes, threshold.astype(jnp.uint8), low == 0, reached, beyond


def _order_keys(scores: jax.Array, where: jax.Array | None) -> jax.Array:
    """Unsigned integers that order like the scores: 0 if ineligible, 1 for NaN, more for numbers.

    A number's bits order like its magnitude, so a positive one gets the sign bit set and a
    negative one all bits flipped. Flipped bits of -inf leave the lowest keys free.
    """
    bits, sign, infinity = _float_bits(scores)
    magnitude = bits & ~sign
    key = jnp.where(bits > sign, ~bits, magnitude | sign)  # the bits of -0.0 are the sign alone
    key = jnp.where(magnitude > infinity, sign.dtype.type(1), key)
    return key if where is None else jnp.where(where, key, sign.dtype.type(0))


def _magnitude_keys(scores: jax.Array, where: None) -> jax.Array:
    """The same by magnitude, in a bit less: 0 for zeros, 1 for NaN, more for other numbers."""
    del where
    bits, sign, infinity = _float_bits(scores)
    magnitude = bits & ~sign
    key = jnp.where(magnitude > infinity, sign.dtype.type(1), magnitude + 1)
    return jnp.where(magnitude == 0, magnitude, key)


def _float_bits(scores: jax.Array) -> tuple[jax.Array, Any, Any]:
    """The bit patterns, the sign's alone, and infinity's."""
    info = jnp.finfo(scores.dtype)
    bits = jax.lax.bitcast_convert_type(scores, f"uint{info.bits}")
    unsigned = bits.dtype.type
    infinity = unsigned(((1 << info.nexp) - 1) << info.nmant)
    return bits, unsigned(1 << (info.bits - 1)), infinity


def _map_flat(function: Callable[..., jax.Array], leaves: list[Leaf]) -> jax.Array:
    """`function` of every leaf, concatenated."""
    if len(leaves) == 1 and leaves[0][0].size % 2 == 0:
        return function(*leaves[0])
    # XLA's CPU backend vectorizes neither a short concatenation nor a loop of odd length.
    count = math.ceil(_MIN_PIECES / len(leaves))
    pieces = []
    for scores, where in leaves:
        step = scores.size // count // _LANES * _LANES
        edges = {step * i for i in range(count)} | {scores.size // 2 * 2, scores.size}
        for start, stop in itertools.pairwise(sorted(edges)):
            piece = slice(start, stop)
            pieces.append(function(scores[piece], None if where is None else where[piece]))
    return jnp.concatenate(pieces)


def _largest_reaching(
    count: Callable[[jax.Array], jax.Array],
    k: jax.Array,
    limit: jax.Array,
    reached: jax.Array,
    beyond: jax.Array,
    guesses: int | jax.Array = _GUESSES,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The largest value below a limit with `count(value) >= k`, or a smaller one that meets k.

    Args:
      count: non-increasing function of the value.
      k: the count to reach; 0 itself is taken to reach it.
      limit: unsigned; taken not to reach it.
      reached: `count(0)`.
      beyond: `count(limit)`.
      guesses: pivots to place where a straight line between the counts at both ends crosses k;
        later ones halve the interval.

    Returns:
      The value, its count, and the count of the next value (unless the value meets k).
    """

    def refine(state: Any) -> Any:
        turn, value, limit, reached, beyond = state
        width = limit - value
        share = (reached - k).astype(jnp.float32) / (reached - beyond).astype(jnp.float32)
        guess = (share * width.astype(jnp.float32)).astype(width.dtype)
        step = jnp.where(turn < guesses, jnp.clip(guess, 1, width - 1), width // 2)
        pivot = value + step
        counted = count(pivot)
        enough = counted >= k
        return (
            turn + 1,
            jnp.where(enough, pivot, value),
            jnp.where(enough, limit, pivot),
            jnp.where(enough, counted, reached),
            jnp.where(enough, beyond, counted),
        )

    state = (jnp.int32(0), jnp.zeros_like(limit), limit, reached, beyond)
    _, value, _, reached, beyond = jax.lax.while_loop(
        lambda state: (state[2] - state[1] > 1) & (state[3] > k), refine, state
    )
    return value, reached, beyond


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
