"""Where arrays live: masks beside their weights, whichever way JAX shards them.

Sharded arrays come in two kinds. On a mesh with `Auto` axes a compiler chooses where results live,
and `shard_alike` ties one array to another. On a mesh with `Explicit` axes, the default of
`jax.make_mesh`, the types of arrays say it, and what flattens or splits a sharded axis does not
type; `automatic` runs it as on a mesh with `Auto` axes. Inside `jax.shard_map` and `jax.pmap` there
is nothing to place.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from supjax.trees import map_named, named_leaves, owner
from supjax.types import PyTree

ROWS = 8
"""Rows that share the bytes of one; see `supjax.bits`."""


def sharding_of(leaf: Any) -> Any:
    """Return where a leaf is known to live; None if nobody has said so.

    >>> import jax.numpy as jnp
    >>> sharding_of(jnp.ones(2)) is None, sharding_of(1.0) is None
    (True, True)
    """
    if isinstance(leaf, jax.core.Tracer):
        sharding = jax.typeof(leaf).sharding
        return sharding if AxisType.Explicit in sharding.mesh.axis_types else None
    return getattr(leaf, "sharding", None) if getattr(leaf, "committed", True) else None


def placed_like(tree: PyTree, weights: PyTree) -> PyTree:
    """Return a tree of arrays, each where the weight of its shape in the other tree lives.

    Args:
      tree: the arrays; `None` leaves stay.
      weights: a tree with a leaf for every array of `tree`, on the same nodes. Uncommitted arrays,
        numpy arrays and shapes without a sharding move nothing.

    Returns:
      The same values, on the devices of the weights.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> device = jax.devices()[-1]
    >>> weights = {"w": jax.device_put(jnp.ones(2), device), "b": jnp.ones(2)}
    >>> placed_like({"w": jnp.zeros(2, bool), "b": None}, weights)["w"].devices() == {device}
    True
    """
    return jax.tree.map(lambda w, leaf: None if leaf is None else _placed(leaf, w), weights, tree)


def beside(state: PyTree, weights: PyTree) -> PyTree:
    """Return a state whose entries lie beside their weights: those of the same name and shape.

    Args:
      state: any tree with weights' names at the end of its paths, such as a `TopologyState`.
      weights: the params.

    Returns:
      The same values.

    >>> import jax.numpy as jnp
    >>> beside({"masks": {"w": jnp.ones(2, bool)}, "step": 1}, {"w": jnp.ones(2)})["step"]
    1
    """
    homes = {name: leaf for name, leaf in named_leaves(weights).items() if leaf is not None}

    def place(path: str, leaf: Any) -> Any:
        name = owner(path, homes)
        if name is None or jnp.shape(homes[name]) != jnp.shape(leaf):
            return leaf
        return _placed(leaf, homes[name])

    return map_named(place, state)


def _placed(leaf: Any, weight: Any) -> Any:
    """Return a leaf where a weight of its shape lives."""
    sharding = sharding_of(weight)
    if isinstance(weight, jax.core.Tracer):
        typed = leaf if sharding is None else jax.sharding.reshard(leaf, sharding)
        return shard_alike(weight, typed)[1]
    held = sharding is None or isinstance(leaf, jax.core.Tracer)
    return leaf if held else jax.device_put(leaf, sharding)


def _is_explicit(sharding: Any) -> bool:
    mesh = getattr(sharding, "mesh", None)
    return mesh is not None and AxisType.Explicit in mesh.axis_types


def automatic(function: Callable[..., Any], *args: Any, out: Any) -> Any:
    """Return `function(*args)`, also where the types of the arguments say how they are sharded.

    Args:
      function: of arrays.
      *args: trees of arrays.
      out: the tree of the results' `PartitionSpec`s, for arguments of such types.
    """
    shardings = (sharding_of(leaf) for leaf in jax.tree.leaves(args))
    mesh = next((sharding.mesh for sharding in shardings if _is_explicit(sharding)), None)
    if mesh is None:
        return function(*args)
    typed = jax.tree.map(lambda spec: NamedSharding(mesh, spec), out)
    return jax.sharding.auto_axes(function, out_sharding=typed)(*args)


def spec_of(leaf: Any) -> PartitionSpec:
    """Return how a leaf is sharded over the axes of its mesh, one entry an axis of the leaf."""
    sharding = sharding_of(leaf)
    spec = sharding.spec if isinstance(sharding, NamedSharding) else ()
    return PartitionSpec(*spec, *[None] * (leaf.ndim - len(spec)))


def packed_spec(leaf: Any) -> PartitionSpec:
    """Return how the bits of a mask are sharded: as the mask, where shards hold whole bytes.

    Where they do not, every device of that axis has the bits of all of its rows, and unpacks its
    own without asking others.
    """
    spec = [*[None] * (2 - leaf.ndim), *spec_of(leaf)]
    names = spec[-2] if isinstance(spec[-2], tuple) else (spec[-2],)
    if spec[-2] is not None:
        shards = math.prod(sharding_of(leaf).mesh.shape[name] for name in names)
        if leaf.shape[-2] % (ROWS * shards):
            spec[-2] = None
    return PartitionSpec(*spec)


def placed_bits(packed: Any, mask: Any) -> Any:
    """Return the bits of a mask beside it."""
    sharding = sharding_of(mask)
    if isinstance(sharding, NamedSharding):
        kind = sharding.memory_kind
        sharding = NamedSharding(sharding.mesh, packed_spec(mask), memory_kind=kind)
    if sharding is None:
        return packed
    if isinstance(mask, jax.core.Tracer):
        return jax.sharding.reshard(packed, sharding)
    one = isinstance(sharding, NamedSharding) or len(sharding.device_set) == 1
    return jax.device_put(packed, sharding) if one else packed
