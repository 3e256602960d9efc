"""Mask algebra over pytrees: which weights are sparse, applying, counting, comparing.

A mask tree has the params' structure with `bool` leaves, and `None` where a weight stays dense.
Public functions match leaves by path (see `supjax.trees`), so that masks in a dict fit weights in a
`FrozenDict` or an `nnx.State`. Inside, trees are mapped params first, `jax.tree.map(f, params,
masks)`: a masks-first map meets `None` where the params have a leaf and raises.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from supjax.axes import slice_count, stack_axes
from supjax.filters import bind, warn_of_dense
from supjax.placement import automatic, beside
from supjax.trees import map_named, named_leaves, rehang, same_names
from supjax.types import AxesFn, LeafFilter, Masks, Params, PyTree, Ticket

_FOLD = 8  # slices added up before a reduction
_LANES = 64  # every slice is a multiple of this long


@jax.jit
def count_true(mask: jax.Array) -> jax.Array:
    """Return the number of true entries, int32.

    >>> import jax.numpy as jnp
    >>> int(count_true(jnp.array([[True, False], [True, True]])))
    3
    """
    return automatic(_count, mask, out=PartitionSpec())


def _count(mask: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(mask, cpu=_folded_count, default=_plain_count)


def _plain_count(mask: jax.Array) -> jax.Array:
    return jnp.sum(mask, dtype=jnp.int32)


def _folded_count(mask: jax.Array) -> jax.Array:
    """Number of ones, about ten times faster on CPU.

    XLA vectorizes a sum of slices there and splits it over threads; a reduction it does not.
    """
    mask = mask.reshape(-1)
    length = mask.size // (_FOLD * _LANES) * _LANES
    folded = jnp.zeros(length, jnp.int32)
    for i in range(_FOLD):
        folded += mask[i * length : (i + 1) * length]
    return _plain_count(folded) + _plain_count(mask[_FOLD * length :])


def map_maskable(
    f: Callable[[str, Any], Any], params: Params, filter_fn: LeafFilter | None = None
) -> PyTree:
    """Return the params' tree with `f(path, leaf)` on maskable leaves and `None` on the others."""
    chosen = bind(filter_fn, named_leaves(params, "params"))

    def one(name: str, leaf: Any) -> Any:
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"params must be arrays, got {type(leaf).__name__} at {name!r}")
        if not chosen(name, leaf):
            return None
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"only floating-point weights can be sparse, got {leaf.dtype} at {name!r}"
            )
        return f(name, leaf)

    return map_named(one, params)


def leaf_key(key: jax.Array, path: str) -> jax.Array:
    """Derive the key of one leaf from its path, so that a new layer reshuffles no other."""
    return jax.random.fold_in(key, zlib.crc32(path.encode()))


def paired(params: Params, masks: Masks) -> Iterator[tuple[str, Any, Any]]:
    """Yield `(path, weight, mask or None)` leaf by leaf; both trees must have the same paths.

    Raises:
      ValueError: if the trees differ, naming the path.
    """
    weights, flags = check_masks(params, masks)
    for name, weight in weights.items():
        if weight is not None:
            yield name, weight, flags[name]


def check_masks(
    params: PyTree, masks: Masks, name: str = "params"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return weights and masks by name, or raise in one line if they do not belong together.

    Leaves are matched by path; nodes may differ. `name` says in the message what the first tree
    holds.

    >>> import jax.numpy as jnp
    >>> check_masks({"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 3), bool)})
    Traceback (most recent call last):
      ...
    ValueError: mask at 'w' has shape (2, 3), params have (2, 2)
    """
    weights, flags = same_names(params, masks, (name, "masks"))
    for path, mask in flags.items():
        if mask is None:
            continue
        dtype = getattr(mask, "dtype", type(mask).__name__)
        if dtype != jnp.bool_:
            raise TypeError(f"mask at {path!r} must be a bool array, got {dtype}")
        shape = getattr(weights[path], "shape", None)
        if mask.shape != shape:
            raise ValueError(f"mask at {path!r} has shape {mask.shape}, {name} have {shape}")
    return weights, flags


def apply_masks(tree: PyTree, masks: Masks) -> PyTree:
    """Set every masked-out entry to exactly zero: `x * m`, also where `x` is NaN or infinite.

    Args:
      tree: params, gradients or any tree with the params' paths.
      masks: its masks; `None` leaves a leaf as it is.

    Returns:
      The masked tree; its nodes, shapes and dtypes are kept.

    Raises:
      ValueError: if paths or shapes differ (the path is named).

    >>> import jax.numpy as jnp
    >>> params = {"bias": jnp.ones(2), "kernel": jnp.array([[1.0, jnp.inf]])}
    >>> apply_masks(params, {"bias": None, "kernel": jnp.array([[True, False]])})["kernel"]
    Array([[1., 0.]], dtype=float32)
    """
    check_masks(tree, masks)
    masks = rehang(masks, tree, ("masks", "params"))
    return jax.tree.map(
        lambda x, m: x if m is None else jnp.where(m, x, jnp.zeros((), x.dtype)), tree, masks
    )


def dense_masks(params: Params, filter_fn: LeafFilter | None = None) -> Masks:
    """Return masks that keep everything, `None` on the leaves that are never sparse.

    Args:
      params: weights (only shapes and dtypes are read).
      filter_fn: which leaves are maskable; default: `supjax.filters.kernels`.

    Returns:
      The params' tree with all-true masks.

    >>> import jax.numpy as jnp
    >>> dense_masks({"bias": jnp.ones(2), "kernel": jnp.ones((1, 2))})
    {'bias': None, 'kernel': Array([[ True,  True]], dtype=bool)}
    """
    masks = map_maskable(lambda _, w: jnp.ones(w.shape, bool), params, filter_fn)
    warn_of_dense(params, filter_fn)
    return beside(masks, params)


def given_masks(params: Params, masks: Masks | Ticket) -> Masks:
    """Return masks to go on with, copied and hung on the nodes of the params.

    Raises:
      TypeError: if a mask is no `bool` array.
      ValueError: if paths or shapes differ (which are named), or there is no mask at all.

    >>> import flax
    >>> given = flax.core.freeze({"w": jnp.array([[True, False]])})
    >>> given_masks({"w": jnp.ones((1, 2))}, given)
    {'w': Array([[ True, False]], dtype=bool)}
    """
    masks = masks.masks if isinstance(masks, Ticket) else masks
    masks = rehang(masks, params, ("masks", "params"))
    check_masks(params, masks)
    if not jax.tree.leaves(masks):
        raise ValueError("masks= holds no mask: all of its leaves are None")
    return beside(jax.tree.map(jnp.array, masks), params)


def nonzero_masks(params: Params, filter_fn: LeafFilter | None = None) -> Masks:
    """Read masks off the non-zeros of maskable weights: `m = (w != 0)`.

    Args:
      params: weights.
      filter_fn: which leaves are maskable; default: `supjax.filters.kernels`.

    Returns:
      The params' tree with `bool` masks, `None` where the leaf is dense.

    >>> import jax.numpy as jnp
    >>> nonzero_masks({"kernel": jnp.array([[0.0, -2.0]])})["kernel"]
    Array([[False,  True]], dtype=bool)
    """
    return map_maskable(lambda _, w: w != 0, params, filter_fn)


def as_masks(masks_or_params: PyTree, filter_fn: LeafFilter | None = None) -> Masks:
    """Return masks unchanged, a ticket's masks, and of params the masks of their non-zeros."""
    if isinstance(masks_or_params, Ticket):
        return masks_or_params.masks
    leaves = jax.tree.leaves(masks_or_params)
    if all(getattr(leaf, "dtype", None) == jnp.bool_ for leaf in leaves):
        return masks_or_params
    return nonzero_masks(masks_or_params, filter_fn)


def _total(counts: list[Any]) -> Any:
    """Add counts: exactly, as a Python int, when they are concrete; as int32 under a trace."""
    if any(isinstance(count, jax.core.Tracer) for count in counts):
        return sum(counts[1:], start=counts[0])
    return sum(int(count) for count in counts)


def count_active(masks_or_params: PyTree, filter_fn: LeafFilter | None = None) -> Any:
    """Count active weights, `sum(m)`, over maskable leaves; zero biases do not count.

    Args:
      masks_or_params: masks, a ticket, or params whose non-zeros are counted.
      filter_fn: which leaves of params are maskable; None for the default. Masks say it themselves.

    Returns:
      A Python int (exact at any size); under a trace an int32 scalar.

    >>> import jax.numpy as jnp
    >>> count_active({"bias": None, "kernel": jnp.array([[True, False, True]])})
    2
    """
    masks = as_masks(masks_or_params, filter_fn)
    return _total([count_true(m) for m in jax.tree.leaves(masks)])


def count_maskable(masks_or_params: PyTree, filter_fn: LeafFilter | None = None) -> int:
    """Count the weights that could be active: N of METHOD, the size of all masks.

    Args:
      masks_or_params: masks, a ticket, or params whose maskable leaves are counted.
      filter_fn: which leaves of params are maskable; None for the default. Masks say it themselves.

    Returns:
      A Python int.

    >>> import jax.numpy as jnp
    >>> count_maskable({"bias": jnp.ones(2), "kernel": jnp.zeros((2, 3))})
    6
    """
    return sum(m.size for m in jax.tree.leaves(as_masks(masks_or_params, filter_fn)))


def density(masks_or_params: PyTree, filter_fn: LeafFilter | None = None) -> Any:
    """Return the share of kept weights, `count_active / count_maskable`, in [0, 1].

    Args:
      masks_or_params: masks, a ticket, or params whose non-zeros are counted.
      filter_fn: which leaves of params are maskable; None for the default. Masks say it themselves.

    Returns:
      A Python float; under a trace a float32 scalar.

    Raises:
      ValueError: if no leaf is maskable, or all of them are empty.

    >>> import jax.numpy as jnp
    >>> density({"kernel": jnp.array([[True, False, False, False]])})
    0.25
    """
    masks = as_masks(masks_or_params, filter_fn)
    size = count_maskable(masks)
    if size == 0:
        raise ValueError("a tree without maskable weights has no density")
    return count_active(masks) / size


def _both(f: Callable[[Any, Any], Any], first: Masks, second: Masks) -> Any:
    """Count, over all sparse places, where `f(a, b)` holds."""
    ours, others = same_names(first, second, ("the first masks", "the second masks"))
    counts = []
    for path, a in ours.items():
        b = others[path]
        shapes = [None if m is None else m.shape for m in (a, b)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"masks at {path!r} have shapes {shapes[0]} and {shapes[1]}")
        if a is not None:
            counts.append(count_true(f(a, b)))
    return _total(counts)


def iou(first: PyTree, second: PyTree, filter_fn: LeafFilter | None = None) -> Any:
    """Return the intersection over union of two masks: `|a & b| / |a | b|`, 1 if both are empty.

    Args:
      first: masks, a ticket, or params whose non-zeros are compared.
      second: the same for the other network; its nodes may be others.
      filter_fn: which leaves of params are maskable; None for the default. Masks say it themselves.

    Returns:
      A Python float in [0, 1]; under a trace a float32 scalar.

    Raises:
      ValueError: if paths or shapes differ (the path is named).

    >>> import jax.numpy as jnp
    >>> iou({"w": jnp.array([[True, True, False]])}, {"w": jnp.array([[True, False, True]])})
    0.3333333333333333
    """
    first, second = as_masks(first, filter_fn), as_masks(second, filter_fn)
    union = _both(jnp.logical_or, first, second)
    both = _both(jnp.logical_and, first, second)
    if isinstance(union, int):
        return both / union if union else 1.0
    return jnp.where(union > 0, both / jnp.maximum(union, 1), 1.0)


def summary(params: Params, masks: Masks, axes_fn: AxesFn | None = None) -> str:
    """Return a printable table, one line a layer: shape, weights, active weights, density.

    Counts come from the masks, so a zero bias is no pruned weight. Masks are bookkeeping:
    the arrays stay dense in memory, and a mask adds one byte a weight. A stack of layers is shown
    as `3 * 32x64`, with the active weights of its emptiest and fullest layer if they differ. What
    is dense although it has two or more dimensions is counted in a line of its own.

    Args:
      params: weights (only shapes are read).
      masks: their masks.
      axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults.

    Returns:
      The table as one string of several lines.

    >>> import jax.numpy as jnp
    >>> kernel, mask = jnp.zeros((2, 2)), jnp.array([[True, False], [False, False]])
    >>> print(summary({"b": jnp.ones(2), "k": kernel}, {"b": None, "k": mask}))
    layer     shape  weights  active  density
    b             2        2       2    dense
    k           2x2        4       1   0.2500
    maskable               4       1   0.2500
    all                    6       3   0.5000
    """
    rows = [("layer", "shape", "weights", "active", "density")]
    sizes, active = [0, 0], [0, 0]
    stacks, dense = stack_axes(params, axes_fn), [0, 0]
    for path, weight, mask in paired(params, masks):
        kept = weight.size if mask is None else int(np.sum(mask))
        share = "dense" if mask is None else f"{kept / max(weight.size, 1):.4f}"
        shape, each = _shown(weight.shape, mask, stacks.get(path, ()))
        rows.append((path, shape, f"{weight.size:,}", f"{kept:,}{each}", share))
        if mask is None and weight.ndim > 1:
            dense = [dense[0] + 1, dense[1] + weight.size]
        for i in (0, 1) if mask is not None else (1,):
            sizes[i] += weight.size
            active[i] += kept
    for name, size, kept in zip(("maskable", "all"), sizes, active, strict=True):
        rows.append((name, "", f"{size:,}", f"{kept:,}", f"{kept / max(size, 1):.4f}"))
    if dense[0]:
        leaves = f"{dense[0]} leaves" if dense[0] > 1 else "1 leaf"
        count = f"{dense[1]:,}"
        rows.append(("dense with 2 or more dimensions", leaves, count, count, "dense"))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )


def _shown(shape: tuple[int, ...], mask: Any, stack: tuple[int, ...]) -> tuple[str, str]:
    """Return a leaf's shape for the table, and what its layers have active if it is a stack."""
    dims = "x".join(str(n) for i, n in enumerate(shape) if i not in stack) or "scalar"
    if not stack:
        return dims, ""
    shown = f"{slice_count(shape, stack)} * {dims}"
    if mask is None:
        return shown, ""
    layers = tuple(i for i in range(len(shape)) if i not in stack)
    counts = np.sum(np.asarray(mask), axis=layers)
    low, high = int(counts.min()), int(counts.max())
    return shown, f" ({low:,} each)" if low == high else f" ({low:,} to {high:,} each)"
