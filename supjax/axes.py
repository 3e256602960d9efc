"""What the axes of a weight mean: stacks of layers, and projections that are matrices.

A kernel alone does not say whether `[3, 32, 64]` is a stack of three matrices, a projection to 32
heads or a convolution of width 3. Its neighbours do: the bias of the stack has the shape `[3, 64]`,
that of the projection `[32, 64]`, that of the convolution `[64]`; a norm inside a stack has a
scale of two dimensions. Where nothing tells, every axis counts as a dimension of one layer, as for
convolutions.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from supjax.leaf_names import is_affine, is_bias, is_vector, module_of, siblings, words
from supjax.placement import automatic, spec_of
from supjax.trees import named_leaves
from supjax.types import Axes, AxesFn, Params

Shape = tuple[int, ...]

Stacks = Mapping[str, tuple[int, ...]]
"""Path -> stack axes, of the leaves that have some."""

_PROJECTIONS = {"query", "key", "value", "queries", "keys", "values", "q", "k", "v"}
_PROJECTIONS |= {"qkv", "kv", "wq", "wk", "wv"}
_ATTENTION = {"attention", "attn", "mha"}
_LIFTED = re.compile(r"(Scan|Vmap)[A-Z]")  # how linen names a lifted module


def default_axes(params: Params) -> dict[str, Axes]:
    """Return what the axes of every leaf with two or more dimensions mean, by its path.

    - *Stacks* have their layers along the first axes, as `nn.scan`, `nn.vmap` and `jax.vmap` put
      them. A leaf is one if its own bias says so (`[L, in, out]` beside `[L, out]`), or else the
      norms and biases of the nearest module around it that has any. Their common part counts where
      they differ, and every slice keeps at least two dimensions. Norms alone, `[a, b]`, speak of
      `a` layers only if that is the one way to read the kernels around them: not if these may as
      well be `b` layers along their second axes, unless `a` is no larger than `b`.
    - *Projections* of attention, `[in, heads, size]` (bias `[heads, size]`, or named as a query,
      key or value beside an output that fits), are the matrix `in x (heads size)`, and the output
      `[heads, size, out]` beside them is `(heads size) x out`.
    - All other leaves are `Axes()`: every axis is a dimension, the published rule for
      convolutions.

    Stacks along other axes, experts without biases and layouts such as `[heads, in, size]` cannot
    be told, and count as one layer: say what they are with `axes_fn`. It is a must for stacks along
    second axes of square kernels without biases that are deeper than wide, `[8, 12, 8]` beside a
    norm `[8, 12]`: they look like 8 layers along first axes, and are taken for them.

    Args:
      params: weights, or their shapes.

    Returns:
      A dict from path to `Axes`.

    >>> import jax.numpy as jnp
    >>> params = {"up": {"kernel": jnp.zeros((3, 4, 8)), "bias": jnp.zeros((3, 8))}}
    >>> default_axes(params)["up/kernel"]
    Axes(stack=(0,), inputs=(), outputs=())
    >>> params = {"query": {"kernel": jnp.zeros((8, 2, 4)), "bias": jnp.zeros((2, 4))}}
    >>> default_axes(params)["query/kernel"]
    Axes(stack=(), inputs=(0,), outputs=(1, 2))
    """
    leaves = {
        path: leaf
        for path, leaf in named_leaves(params, "params").items()
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    }
    modules = siblings(leaves)
    depths = stack_depths(leaves)
    grouped = _projections(leaves, modules, depths)
    return {
        path: Axes(_first(depths[path], leaf.ndim), *grouped.get(path, ((), ())))
        for path, leaf in leaves.items()
        if leaf.ndim > 1
    }


def axes_of(params: Params, axes_fn: AxesFn | None = None) -> dict[str, Axes]:
    """Return what the axes of every leaf mean: what `axes_fn` says, else the default.

    Axes count from 0 in the result.

    Raises:
      TypeError: if `axes_fn` returns something else.
      ValueError: if it names an axis that does not exist, one twice, or all of them as a stack.

    >>> import jax.numpy as jnp
    >>> axes_of({"w": jnp.zeros((4, 3, 5))}, lambda path, leaf: Axes(stack=(-2,)))["w"].stack
    (1,)
    """
    found = default_axes(params)
    if axes_fn is None:
        return found
    for path, leaf in named_leaves(params, "params").items():
        if leaf is not None and (given := axes_fn(path, leaf)) is not None:
            found[path] = _checked(given, path, leaf)
    return found


def stack_axes(params: Params, axes_fn: AxesFn | None = None) -> dict[str, tuple[int, ...]]:
    """Return the stack axes of the leaves that are stacks of layers, by path.

    Args:
      params: weights, or their shapes.
      axes_fn: `(path, leaf) -> Axes`, or None where the default is right.

    Returns:
      A dict from path to axes; leaves that are one layer are not in it.

    Raises:
      TypeError: if `axes_fn` returns something else.
      ValueError: if it names an axis that does not exist, one twice, or all of them as a stack.

    >>> import jax.numpy as jnp
    >>> stack_axes({"up": {"kernel": jnp.zeros((3, 4, 8)), "bias": jnp.zeros((3, 8))}, "w": None})
    {'up/kernel': (0,)}
    """
    return {path: axes.stack for path, axes in axes_of(params, axes_fn).items() if axes.stack}


def layer_dims(shape: Shape, axes: Axes) -> Shape:
    """Return the dimensions of one layer of a leaf: the matrix, or every axis by itself.

    >>> layer_dims((3, 32, 4, 8), Axes(stack=(0,), inputs=(1,), outputs=(2, 3)))
    (32, 32)
    """
    grouped = [group for group in (axes.inputs, axes.outputs) if group]
    named = {*axes.stack, *axes.inputs, *axes.outputs}
    rest = tuple(n for i, n in enumerate(shape) if i not in named)
    return tuple(math.prod(shape[i] for i in group) for group in grouped) + rest


def slice_count(shape: Shape, stack: tuple[int, ...]) -> int:
    """Return how many layers a leaf holds.

    >>> slice_count((3, 32, 64), (0,)), slice_count((32, 64), ())
    (3, 1)
    """
    return math.prod(shape[i] for i in stack)


def to_layers(leaf: jax.Array, stack: tuple[int, ...]) -> jax.Array:
    """Return a leaf with its layers along one first axis; a leaf without stack axes is one layer.

    >>> import jax.numpy as jnp
    >>> to_layers(jnp.zeros((5, 3, 4)), (1,)).shape, to_layers(jnp.zeros((5, 3)), ()).shape
    ((3, 5, 4), (1, 5, 3))
    """
    rest = [entry for axis, entry in enumerate(spec_of(leaf)) if axis not in stack]

    def merged(leaf: jax.Array) -> jax.Array:
        first = jnp.moveaxis(leaf, stack, range(len(stack)))
        return first.reshape(slice_count(leaf.shape, stack), *first.shape[len(stack) :])

    return automatic(merged, leaf, out=PartitionSpec(None, *rest))


def from_layers(layers: jax.Array, shape: Shape, stack: tuple[int, ...]) -> jax.Array:
    """Return the leaf of a shape whose layers lie along the first axis: undo `to_layers`.

    >>> import jax.numpy as jnp
    >>> leaf = jnp.arange(24).reshape(2, 3, 4)
    >>> bool((from_layers(to_layers(leaf, (2, 0)), leaf.shape, (2, 0)) == leaf).all())
    True
    """
    lengths = tuple(shape[i] for i in stack)
    rest = iter(spec_of(layers)[1:])
    out = PartitionSpec(*(None if i in stack else next(rest) for i in range(len(shape))))

    def separated(layers: jax.Array) -> jax.Array:
        split = layers.reshape(*lengths, *layers.shape[1:])
        return jnp.moveaxis(split, range(len(stack)), stack)

    return automatic(separated, layers, out=out)


def _first(depth: int, ndim: int) -> tuple[int, ...]:
    """Return the first axes, if a slice is left with two dimensions or more."""
    return tuple(range(depth)) if ndim - depth > 1 else ()


def _checked(axes: Any, path: str, leaf: Any) -> Axes:
    if not isinstance(axes, Axes):
        raise TypeError(f"axes_fn must return supjax.Axes or None, got {axes!r} at {path!r}")
    named = [axis for group in axes for axis in group]
    positive = [axis % leaf.ndim for axis in named if -leaf.ndim <= axis < leaf.ndim]
    if len(set(positive)) < len(named) or (axes.stack and len(axes.stack) >= leaf.ndim):
        raise ValueError(
            f"axes_fn gives {tuple(axes)} at {path!r} of shape {leaf.shape}: axes must exist, "
            "differ, and not all be stack axes"
        )
    return Axes(*(tuple(axis % leaf.ndim for axis in group) for group in axes))


def stack_depths(leaves: Mapping[str, Any]) -> dict[str, int]:
    """Return how many of a leaf's first axes are stack axes, as its neighbours tell.

    >>> import jax.numpy as jnp
    >>> stack_depths({"norm/scale": jnp.zeros((3, 8)), "up/kernel": jnp.zeros((3, 8, 4))})
    {'norm/scale': 1, 'up/kernel': 1}
    """
    modules = siblings(leaves)
    own: dict[str, list[int]] = {}
    told: dict[str, set[Shape]] = {}
    norms: list[tuple[str, Shape]] = []
    unsure: dict[str, Shape] = {}

    def tell(module: str, lengths: Shape) -> None:
        told.setdefault(module, set()).add(lengths)
        while module:
            module = module_of(module)
            told.setdefault(module, set()).add(lengths)

    for module, members in modules.items():
        affine = [path for path, leaf in members.items() if is_affine(path, leaf, members)]
        biases = [members[path].shape for path in affine if is_bias(path, members[path], members)]
        kernels = [path for path in members if path not in affine and members[path].ndim > 1]
        for path in affine:
            if members[path].ndim and (not kernels or members[path].shape not in biases):
                norms.append((module, members[path].shape))
        for path in kernels:
            shape = members[path].shape
            own[path] = sorted({d for bias in biases for d in _depths(path, shape, bias)})
            if biases and not own[path] and len(kernels) == 1:
                own[path] = [0]
            if len(own[path]) == 1:
                tell(module, shape[: own[path][0]])
            elif len(shape) > 2:
                unsure[path] = shape
    for module, shape in norms:
        if _speaks_of_first_axes(shape, _nearest(module, unsure)):
            tell(module, _norm_lengths(shape))
    return {
        path: 0 if leaf is None else _depth(path, leaf.shape, own.get(path, []), told)
        for path, leaf in leaves.items()
    }


def _depth(path: str, shape: Shape, own: list[int], told: Mapping[str, set[Shape]]) -> int:
    if len(own) == 1:
        return own[0]
    module, lifted = module_of(path), False
    while module and module not in told:
        lifted |= bool(_LIFTED.match(module.rpartition("/")[2]))
        module = module_of(module)
    lengths = _common(told.get(module, set()))
    depth = len(lengths) if shape[: len(lengths)] == lengths and len(shape) > len(lengths) else 0
    if own:  # as many layers as inputs, or as heads
        attends = _is_projection(path) or _in_attention(path)
        return depth if depth in own else own[0 if attends else -1]
    return 1 if lifted and len(shape) == 3 else depth


def _nearest(module: str, shapes: Mapping[str, Shape]) -> list[Shape]:
    """Return the shapes inside the nearest module around, itself included, that has any."""
    while not (found := [s for path, s in shapes.items() if f"/{path}".startswith(f"/{module}/")]):
        if not module:
            return list(shapes.values())
        module = module_of(module)
    return found


def _speaks_of_first_axes(norm: Shape, kernels: Sequence[Shape]) -> bool:
    """Say whether the two dimensions of a norm are layers and features, not the other way round."""
    if len(norm) != 2 or not kernels or any(kernel[1] != norm[1] for kernel in kernels):
        return True
    return norm[0] <= norm[1] and all(kernel[0] == norm[0] for kernel in kernels)


def _depths(path: str, kernel: Shape, bias: Shape) -> list[int]:
    """Return the numbers of stack axes with which a bias fits a kernel.

    The outputs of a layer are its last axes, but as in Equinox they may be the first one of what
    is not called `kernel` or `w`.
    """
    inputs_first = path.rpartition("/")[2] in ("kernel", "w")
    for shape in (bias, _without_last_ones(bias)):
        if len(shape) == 1:
            return [0]
        found = []
        for depth in range(min(len(shape), len(kernel) - 1)):
            slice_, own = kernel[depth:], shape[depth:]
            last = own == slice_[len(slice_) - len(own) :]
            first = not inputs_first and len(own) == 1 and own == slice_[:1]
            if shape[:depth] == kernel[:depth] and len(own) < len(slice_) and (last or first):
                found.append(depth)
        if found:
            return found
    return []


def _without_last_ones(shape: Shape) -> Shape:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _norm_lengths(shape: Shape) -> Shape:
    """Return the stack lengths of a scale that has one dimension a layer."""
    if len(shape) < 3:
        return shape[:-1]
    return () if is_vector(shape) else tuple(n for n in shape[:-1] if n > 1)


def _common(all_lengths: Iterable[Shape]) -> Shape:
    """Return the longest common beginning."""
    common: Shape | None = None
    for lengths in all_lengths:
        if common is None:
            common = lengths
        while lengths[: len(common)] != common:
            common = common[:-1]
    return common or ()


Groups = tuple[tuple[int, ...], tuple[int, ...]]
"""Input and output axes."""


def _projections(
    leaves: Mapping[str, Any], modules: Mapping[str, Mapping[str, Any]], depths: Mapping[str, int]
) -> dict[str, Groups]:
    """Return input and output axes of attention projections, queries first, then outputs."""
    groups: dict[str, Groups] = {}
    candidates = {
        path: leaf.shape[depths[path] :]
        for path, leaf in leaves.items()
        if leaf.ndim - depths[path] > 2 and not is_affine(path, leaf, modules[module_of(path)])
    }

    def near(path: str) -> list[str]:
        scope = module_of(module_of(path))
        return [p for p in candidates if p != path and module_of(module_of(p)) == scope]

    def split(path: str, inputs: int) -> None:
        start, end = depths[path], leaves[path].ndim
        groups[path] = (
            tuple(range(start, start + inputs)),
            tuple(range(start + inputs, end)),
        )

    named = {path for path in candidates if _is_projection(path)}
    for path, shape in candidates.items():
        outputs = _bias_rank(path, modules[module_of(path)], depths[path])
        if outputs > 1:
            split(path, len(shape) - outputs)
        elif path in named and outputs == 0 and len(shape) == 3:
            fitting = [p for p in near(path) if p not in named and len(candidates[p]) == 3]
            wide = _in_attention(path) and shape[0] >= shape[1]
            if wide or any(candidates[p][:2] == shape[1:] for p in fitting):
                split(path, 1)
    queries = dict(groups)
    for path, shape in candidates.items():
        if path in groups or len(shape) != 3:
            continue
        heads = [candidates[p] for p in near(path) if p in queries]
        if path in named:  # keys and values with fewer heads
            if any(h[0] == shape[0] and h[-1] == shape[-1] for h in heads):
                split(path, 1)
        elif any(h[-2:] == shape[:2] for h in heads):
            split(path, 2)
    return groups


def _bias_rank(path: str, module: Mapping[str, Any], depth: int) -> int:
    """Return how many dimensions a layer's bias has, 0 without one."""
    kernel = module[path].shape
    ranks = [
        len(leaf.shape) - depth
        for other, leaf in module.items()
        if is_bias(other, leaf, module)
        and depth in _depths(path, kernel, leaf.shape)
        and (len(leaf.shape) == 1 or not is_vector(leaf.shape[depth:]))
    ]
    return min(ranks, default=0)


def _is_projection(path: str) -> bool:
    names = path.split("/")[-2:]
    return any(word in _PROJECTIONS for name in names for word in words(name))


def _in_attention(path: str) -> bool:
    return any(word in _ATTENTION for word in words(path))
