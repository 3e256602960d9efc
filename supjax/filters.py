"""Which weights are sparse, and what their axes mean.

Every function that takes `filter_fn` takes one of these, or any function `(path, leaf) -> bool`.
Paths are those of `supjax.trees.named_leaves`, the same for linen and nnx: `conv1/kernel`.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax.numpy as jnp

from supjax.axes import axes_of, default_axes, stack_axes, stack_depths
from supjax.checks import listed
from supjax.leaf_names import is_affine, is_vector, module_of, siblings, words
from supjax.trees import named_leaves
from supjax.types import LeafFilter, Params

__all__ = [
    "TreeFilter",
    "axes_of",
    "bind",
    "by_pattern",
    "default_axes",
    "default_filter",
    "kernels",
    "left_dense",
    "no_embeddings",
    "stack_axes",
]

_EMBEDDINGS = {"embedding", "embeddings", "embed", "embeds", "embedder", "emb", "wte", "wpe"}
_LAYERS = {"proj", "projection", "linear", "dense", "conv", "fc", "kernel"}


@dataclass(frozen=True)
class TreeFilter:
    """A filter that may look at all leaves of a tree before it chooses among them.

    Called with `(path, leaf)` it answers for a leaf whose neighbours are not known. Two of them,
    or one and a function `(path, leaf) -> bool`, combine with `&` and `|`.

    Attributes:
      alone: `(path, leaf) -> is this weight sparse?`
      among: `leaves by path -> (path, leaf) -> is this weight sparse?`

    >>> import jax.numpy as jnp
    >>> rule = kernels & (lambda path, leaf: not path.startswith("head/"))
    >>> rule("body/kernel", jnp.ones((2, 3))), rule("head/kernel", jnp.ones((2, 3)))
    (True, False)
    """

    alone: LeafFilter
    among: Callable[[Mapping[str, Any]], LeafFilter]

    def __call__(self, path: str, leaf: Any) -> bool:
        """Return whether the leaf is sparse."""
        return self.alone(path, leaf)

    def __and__(self, other: LeafFilter) -> "TreeFilter":
        """Return the filter of the leaves that both choose."""
        return _combined(self, other, all)

    def __or__(self, other: LeafFilter) -> "TreeFilter":
        """Return the filter of the leaves that at least one chooses."""
        return _combined(self, other, any)


def _combined(first: LeafFilter, second: LeafFilter, join: Callable[[Any], bool]) -> TreeFilter:
    def joined(one: LeafFilter, other: LeafFilter) -> LeafFilter:
        return lambda path, leaf: join((one(path, leaf), other(path, leaf)))

    return TreeFilter(
        joined(first, second), lambda leaves: joined(bind(first, leaves), bind(second, leaves))
    )


def bind(filter_fn: LeafFilter | None, leaves: Mapping[str, Any]) -> LeafFilter:
    """Return the filter of one tree's leaves; None stands for `kernels`.

    Args:
      filter_fn: any filter.
      leaves: all leaves of the tree by path.

    Returns:
      A function `(path, leaf) -> bool`.

    Raises:
      ValueError: if the filter names something that the tree does not have.

    >>> import jax.numpy as jnp
    >>> leaves = {"w": jnp.zeros((3, 4, 8)), "b": jnp.zeros((3, 8)), "c": jnp.zeros((2, 2))}
    >>> [path for path, leaf in leaves.items() if bind(None, leaves)(path, leaf)]
    ['w', 'c']
    """
    chosen = kernels if filter_fn is None else filter_fn
    return chosen.among(leaves) if isinstance(chosen, TreeFilter) else chosen


def _is_eligible(leaf: Any) -> bool:
    return getattr(leaf, "ndim", 0) > 1 and jnp.issubdtype(leaf.dtype, jnp.floating)


def _is_kernel(path: str, leaf: Any) -> bool:
    return _is_eligible(leaf) and not is_affine(path, leaf)


def _is_kernel_among(leaves: Mapping[str, Any]) -> LeafFilter:
    arrays = {p: leaf for p, leaf in leaves.items() if hasattr(leaf, "ndim")}
    modules, depths = siblings(arrays), stack_depths(arrays)

    def is_kernel(path: str, leaf: Any) -> bool:
        module = module_of(path)
        # A stack of vectors is no kernel. At the root a leaf of two dimensions is what it seems.
        per_layer = leaf.ndim - (depths.get(path, 0) if module else 0)
        return _is_eligible(leaf) and per_layer > 1 and not is_affine(path, leaf, modules[module])

    return is_kernel


kernels = TreeFilter(_is_kernel, _is_kernel_among)
"""The default: floating-point leaves with two or more dimensions that are, by name, no bias, no
scale and no part of a norm. Embedding tables are kernels."""

default_filter = kernels
"""The public name of the default filter."""


def _is_no_embedding(path: str, leaf: Any) -> bool:
    *parents, name = [part for part in path.split("/") if not part.isdigit()] or [""]
    own, parent = words(name), words(parents[-1]) if parents else []
    if own[-1:] == ["kernel"]:  # the convolution of a patch embedding
        return True
    return not any(
        found and found[-1] not in _LAYERS and _EMBEDDINGS & {*found} for found in (own, parent)
    )


no_embeddings = kernels & _is_no_embedding
"""`kernels` without embedding tables and position embeddings, which are so by their own name or
that of their module (`tok_embed/weight`); a leaf called kernel is none."""


def by_pattern(*patterns: str) -> TreeFilter:
    """Return the filter that chooses leaves by patterns on their paths.

    Patterns are those of a shell: `*` is anything, `/` included, `?` is one character, `[ab]` one
    of several; `*/kernel` also matches a `kernel` at the root. Later patterns win, and `!` in front
    takes leaves out. If the first one takes out, all `kernels` are there to begin with; otherwise
    nothing is. Only floating-point leaves with two or more dimensions can be chosen, but of these
    any, also biases: `*` takes the biases of attention too.

    Args:
      *patterns: at least one.

    Returns:
      A `TreeFilter`.

    Raises:
      ValueError: if there is no pattern; at init, if one matches nothing.

    >>> import jax.numpy as jnp
    >>> params = {"body": {"kernel": jnp.ones((2, 4))}, "head": {"kernel": jnp.ones((4, 2))}}
    >>> import supjax
    >>> masks = supjax.dense_masks(params, by_pattern("*/kernel", "!head/*"))
    >>> masks["body"]["kernel"].shape, masks["head"]["kernel"]
    ((2, 4), None)
    >>> supjax.dense_masks(params, by_pattern("*/kernel", "!haed/*"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    ValueError: pattern '!haed/*' matches no leaf of the params; there are ['body/kernel', ...
    """
    for pattern in patterns or [None]:
        if not isinstance(pattern, str) or not pattern.removeprefix("!"):
            raise ValueError(f"by_pattern takes patterns such as '*/kernel', got {pattern!r}")
    rules = [(not pattern.startswith("!"), pattern.removeprefix("!")) for pattern in patterns]

    def choose(start: LeafFilter) -> LeafFilter:
        def is_chosen(path: str, leaf: Any) -> bool:
            chosen = start(path, leaf) and not rules[0][0]
            for takes_in, pattern in rules:
                chosen = takes_in if _matches(path, pattern) else chosen
            return chosen and _is_eligible(leaf)

        return is_chosen

    def among(leaves: Mapping[str, Any]) -> LeafFilter:
        for takes_in, pattern in rules:
            written = pattern if takes_in else f"!{pattern}"
            names = [p for p, x in leaves.items() if x is not None]
            names = [p for p in names if _is_eligible(leaves[p])] if takes_in else names
            if not any(_matches(path, pattern) for path in names):
                what = "floating-point leaf with two or more dimensions" if takes_in else "leaf"
                raise ValueError(
                    f"pattern {written!r} matches no {what} of the params; "
                    f"there are {listed(names, 5)}"
                )
        return choose(bind(kernels, leaves))

    return TreeFilter(choose(kernels), among)


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(f"/{path}", pattern)


def left_dense(params: Params, filter_fn: LeafFilter | None = None) -> dict[str, int]:
    """Return the leaves with two or more dimensions that stay dense, and how many weights each has.

    Args:
      params: weights, or their shapes.
      filter_fn: which leaves are sparse; default: `kernels`.

    Returns:
      A dict from path to size.

    >>> import jax.numpy as jnp
    >>> left_dense({"kernel": jnp.ones((3, 4, 5)), "bias": jnp.ones((3, 5))})
    {'bias': 15}
    """
    leaves = named_leaves(params, "params")
    chosen = bind(filter_fn, leaves)
    return {
        path: math.prod(leaf.shape)
        for path, leaf in leaves.items()
        if leaf is not None and _is_eligible(leaf) and not chosen(path, leaf)
    }


def warn_of_dense(params: Params, filter_fn: LeafFilter | None) -> None:
    """Warn if the default filter leaves over a tenth of the weights dense that might be sparse.

    Counted are leaves that have two or more dimensions in one layer and are no bias of a kernel
    beside them, against all weights. Whoever gives a filter has chosen, and is not warned. Reads
    shapes and dtypes only.

    >>> import jax.numpy as jnp
    >>> warn_of_dense({"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}, None)
    """
    if filter_fn is not None and filter_fn is not kernels:
        return
    leaves = {p: x for p, x in named_leaves(params, "params").items() if hasattr(x, "shape")}
    sizes = {path: math.prod(leaf.shape) for path, leaf in leaves.items()}
    dense = left_dense(params)
    stacks = {path: stack for path, stack in stack_axes(params).items() if path not in dense}
    lengths = {tuple(leaves[path].shape[i] for i in stack) for path, stack in stacks.items()}
    modules = siblings(leaves)
    largest = sorted(
        (p for p in dense if not _is_small(leaves[p], modules[module_of(p)], lengths | {()})),
        key=lambda path: -sizes[path],
    )
    left, total = sum(sizes[path] for path in largest), sum(sizes.values())
    if left * 10 <= total:
        return
    patterns = ", ".join(f'"{path}"' for path in largest[:3])
    warnings.warn(
        f"{left:,} of {total:,} weights stay dense although they have two or more dimensions, "
        f"most in {largest[:3]}: by their names they are biases, scales or norms; to make them "
        f"sparse pass filter_fn=supjax.filters.kernels | supjax.filters.by_pattern({patterns}), "
        "to keep them dense without this warning "
        f'filter_fn=supjax.filters.by_pattern("!{largest[0]}")',
        UserWarning,
        stacklevel=3,
    )


def _is_small(leaf: Any, module: Mapping[str, Any], lengths: set[tuple[int, ...]]) -> bool:
    """Say whether a layer of a leaf is a vector, or has the shape of a bias of a leaf beside it."""
    layers = {leaf.shape[len(n) :] for n in lengths if leaf.shape[: len(n)] == n}
    return any(is_vector(shape) for shape in layers) or any(
        beside.ndim > leaf.ndim and beside.shape[-len(shape) :] == shape
        for beside in module.values()
        for shape in layers
    )
