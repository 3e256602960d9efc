"""Layer densities, and random masks that hold them exactly."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp

from supjax.allocation import budget, exact, largest_remainder
from supjax.axes import (
    Stacks,
    axes_of,
    from_layers,
    layer_dims,
    slice_count,
    stack_axes,
    to_layers,
)
from supjax.checks import check_choice, check_density, listed
from supjax.filters import warn_of_dense
from supjax.masks import leaf_key, map_maskable
from supjax.placement import beside
from supjax.selection import top_k_mask
from supjax.trees import same_names
from supjax.types import Axes, AxesFn, LeafFilter, Masks, Params, PyTree


def _maskable_shapes(params: Params, filter_fn: LeafFilter | None) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    map_maskable(lambda path, w: shapes.setdefault(path, w.shape), params, filter_fn)
    if not shapes:
        raise ValueError(
            "params hold no maskable weight (a kernel by name and shape, or filter_fn's choice)"
        )
    return shapes


def _as_tree(values: dict[str, float], params: Params, filter_fn: LeafFilter | None) -> PyTree:
    return map_maskable(lambda path, _: values[path], params, filter_fn)


def erk(
    params: Params,
    density: float,
    filter_fn: LeafFilter | None = None,
    axes_fn: AxesFn | None = None,
) -> PyTree:
    """Return Erdos-Renyi-Kernel densities, `d_l = eps * sum(dims_l) / prod(dims_l)`.

    eps is solved so that `sum_l d_l n_l = density * N`. While any layer exceeds 1, all layers
    with the largest score become dense and eps is solved again. The dims of a leaf are those of one
    layer of it (see `supjax.filters.default_axes`): a slice of a stack, a projection as the matrix
    that it is, all dimensions of a convolution.

    Args:
      params: weights (arrays or `jax.ShapeDtypeStruct`s; only shapes are read).
      density: target over all maskable weights together, in (0, 1].
      filter_fn: which leaves are maskable; default: `supjax.filters.kernels`.
      axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults.

    Returns:
      The params' tree with a float density on maskable leaves, `None` on the others.

    Raises:
      ValueError: if density is outside (0, 1] or nothing is maskable.

    Source: Evci et al., *Rigging the Lottery*, ICML 2020, section 3 and appendix.

    >>> import jax.numpy as jnp
    >>> params = {"a": jnp.zeros((784, 300)), "b": jnp.zeros((300, 100)), "c": jnp.zeros((100, 10))}
    >>> {name: round(d, 6) for name, d in erk(params, 0.1).items()}
    {'a': 0.079568, 'b': 0.230189, 'c': 1.0}
    """
    check_density(density)
    shapes = _maskable_shapes(params, filter_fn)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    axes = axes_of(params, axes_fn)
    layers = {n: layer_dims(s, axes.get(n, Axes())) for n, s in shapes.items()}
    score = {n: sum(dims) / math.prod(dims) for n, dims in layers.items() if sizes[n] > 0}
    dense: set[str] = set()
    target = float(density) * sum(sizes.values())
    while True:
        free = [name for name in score if name not in dense]
        if not free:
            eps = 0.0
            break
        eps = (target - sum(sizes[n] for n in dense)) / sum(score[n] * sizes[n] for n in free)
        largest = max(score[name] for name in free)
        if eps * largest <= 1:
            break
        dense |= {name for name in free if score[name] == largest}
    values = {n: 1.0 if n in dense else eps * score.get(n, 0.0) for n in shapes}
    return _as_tree(values, params, filter_fn)


def uniform(
    params: Params,
    density: float,
    filter_fn: LeafFilter | None = None,
    *,
    dense_layer: str | None = None,
) -> PyTree:
    """Return the same density everywhere, `d_l = density`; one named layer may stay dense.

    Args:
      params: weights (only shapes are read).
      density: in (0, 1].
      filter_fn: which leaves are maskable.
      dense_layer: path of a maskable leaf with density 1, usually the first convolution. The
        other layers keep `density`, so the total lies above it.

    Returns:
      The params' tree with a float density on maskable leaves, `None` on the others.

    Raises:
      ValueError: if density is outside (0, 1], nothing is maskable, or no such leaf exists.

    >>> import jax.numpy as jnp
    >>> uniform({"a": jnp.zeros((2, 3)), "b": jnp.zeros(3)}, 0.5)
    {'a': 0.5, 'b': None}
    """
    check_density(density)
    values = dict.fromkeys(_maskable_shapes(params, filter_fn), float(density))
    if dense_layer is not None:
        if dense_layer not in values:
            raise ValueError(
                f"no maskable leaf {dense_layer!r}; there are {listed(sorted(values))}"
            )
        values[dense_layer] = 1.0
    return _as_tree(values, params, filter_fn)


DISTRIBUTIONS: dict[str, Callable[..., PyTree]] = {
    "erk": erk,
    "uniform": lambda params, density, filter_fn, axes_fn: uniform(params, density, filter_fn),
}
"""Name -> function `(params, density, filter_fn, axes_fn) -> tree of layer densities`."""


def layer_counts(
    params: Params, densities: PyTree, total: int, stacks: Stacks | None = None
) -> dict[str, int | list[int]]:
    """Return the integer budget of every layer, `d_l n_l` rounded so that they add up to `total`.

    A leaf is one layer; for one with stack axes, by path in `stacks`, it is a list, slice by slice.

    Largest remainders get the units that rounding down leaves, so every count is within one of
    `d_l n_l`. No layer is left empty while the total allows one weight each: an empty layer
    would never grow again.
    """
    weights, values = same_names(params, densities, ("params", "densities"))
    shares: list[Fraction] = []
    sizes: list[int] = []
    slices: dict[str, int | None] = {}
    for name, weight in weights.items():
        if (d := values[name]) is not None:
            stack = (stacks or {}).get(name, ())
            count = slice_count(weight.shape, stack)
            slices[name] = count if stack else None
            size = weight.size // max(count, 1)
            shares += [exact(d) * size] * count
            sizes += [size] * count
    counts = iter(largest_remainder(shares, sizes, total, floor=1))
    return {
        name: next(counts) if count is None else list(itertools.islice(counts, count))
        for name, count in slices.items()
    }


def init_masks(
    key: jax.Array,
    params: Params,
    density: float,
    distribution: str = "erk",
    filter_fn: LeafFilter | None = None,
    axes_fn: AxesFn | None = None,
) -> Masks:
    """Draw random masks with exact counts: `round(density * N)` active weights in total.

    Args:
      key: typed PRNG key; the key is consumed. Each leaf's own key comes from its path.
      params: weights (only shapes and dtypes are read).
      density: share of kept weights over all maskable ones, in (0, 1].
      distribution: "erk" or "uniform".
      filter_fn: which leaves are maskable; default: `supjax.filters.kernels`.
      axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults. Every slice
        of a stack has its own count.

    Returns:
      The params' tree with `bool` masks, `None` where the leaf is dense.

    Raises:
      ValueError: if density or distribution is not allowed, or nothing is maskable.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> params = {"bias": jnp.zeros(5), "kernel": jnp.zeros((4, 5))}
    >>> masks = init_masks(jax.random.key(0), params, density=0.25)
    >>> int(masks["kernel"].sum()), masks["bias"]
    (5, None)
    """
    check_choice(distribution, "distribution", DISTRIBUTIONS)
    warn_of_dense(params, filter_fn)
    densities = DISTRIBUTIONS[distribution](params, density, filter_fn, axes_fn)
    size = sum(math.prod(shape) for shape in _maskable_shapes(params, filter_fn).values())
    stacks = stack_axes(params, axes_fn)
    counts = layer_counts(params, densities, budget(density, size), stacks)

    def draw(path: str, weight: Any) -> jax.Array:
        scores, kept = jax.random.uniform(leaf_key(key, path), weight.shape), counts[path]
        if isinstance(kept, int):
            return top_k_mask(scores, kept)
        stack, wanted = stacks[path], jnp.asarray(kept, jnp.int32)
        layers = jax.vmap(top_k_mask)(to_layers(scores, stack), wanted)
        return from_layers(layers, weight.shape, stack)

    return beside(map_maskable(draw, params, filter_fn), params)
