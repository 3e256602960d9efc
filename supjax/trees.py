"""Trees meet by path, not by node type.

A user's weights come as dicts, FrozenDicts, lists, dataclasses, NamedTuples, Equinox modules with
`None` leaves, or with leaves in a wrapper: flax.nnx's `Variable`, linen's `Partitioned`; what he
pairs them with (gradients, masks, the state inside `nnx.Optimizer`) may be built of other nodes.
Every leaf has a name, its path without wrappers, such as `conv/kernel`, and two trees belong
together if their names agree. Public functions bring their trees onto the nodes of the params once,
with `rehang`; what is inside then maps trees of one structure.
"""

import sys
from collections.abc import Callable, Container
from typing import Any

import jax

from supjax.types import PyTree


def is_none(node: Any) -> bool:
    """Tell `None` apart: the `is_leaf` of maps that must see dense leaves."""
    return node is None


_WRAPPERS = (("flax.nnx", "Variable"), ("flax.core.meta", "AxisMetadata"))


def is_wrapped(node: Any) -> bool:
    """Tell apart flax's wrappers of one leaf each; flax is not imported for it."""
    known = (getattr(sys.modules.get(module), name, None) for module, name in _WRAPPERS)
    return any(wrapper is not None and isinstance(node, wrapper) for wrapper in known)


def path_str(path: Any) -> str:
    """Return the readable form of a key path, such as `conv1/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def unwrapped(tree: PyTree) -> PyTree:
    """Return a tree in which every wrapped leaf is what it wraps: an array, or `None`.

    >>> unwrapped({"w": 1.0})
    {'w': 1.0}
    """

    def unwrap(node: Any) -> Any:
        if not is_wrapped(node):
            return node
        ((content,), _) = jax.tree_util.default_registry.flatten_one_level(node)
        return unwrapped(content)

    return jax.tree.map(unwrap, tree, is_leaf=is_wrapped)


def named_leaves(tree: PyTree, name: str = "tree") -> dict[str, Any]:
    """Return the leaves by name, `None` leaves included, in the order of `jax.tree.leaves`.

    Args:
      tree: any pytree.
      name: what the tree is called in an error.

    Raises:
      ValueError: if two leaves have the same name.

    >>> named_leaves({"conv": [{"kernel": 1.0}, None]})
    {'conv/0/kernel': 1.0, 'conv/1': None}
    """
    flat = jax.tree_util.tree_flatten_with_path(unwrapped(tree), is_leaf=is_none)[0]
    leaves: dict[str, Any] = {}
    for path, leaf in flat:
        key = path_str(path)
        if key in leaves:
            raise ValueError(f"two leaves of the {name} have the path {key!r}")
        leaves[key] = leaf
    return leaves


def map_named(f: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    """Return the tree, wrappers included, with `f(name, leaf)` in place of every leaf.

    `None` leaves stay.

    >>> map_named(lambda name, leaf: f"{name}={leaf}", {"conv": [1.0, None]})
    {'conv': ['conv/0=1.0', None]}
    """
    named = iter((n, leaf) for n, leaf in named_leaves(tree).items() if leaf is not None)
    return jax.tree.map(lambda _: f(*next(named)), tree)


def owner(path: str, names: Container[str]) -> str | None:
    """Return the longest name that a path ends in: the weight that an entry of a state is of.

    >>> owner("0/trace/head/kernel", ["kernel", "head/kernel"]), owner("count", ["kernel"])
    ('head/kernel', None)
    """
    parts = path.split("/")
    ends = ("/".join(parts[i:]) for i in range(len(parts) + 1))  # the last is a bare array's name
    return next((end for end in ends if end in names), None)


def same_names(
    first: PyTree, second: PyTree, names: tuple[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the leaves of two trees by name (see `named_leaves`), which must be the same names.

    Raises:
      ValueError: naming a path at which only one of the trees has a leaf.

    >>> same_names({"a": 1}, {"a": 1, "b": 2}, ("params", "masks"))
    Traceback (most recent call last):
      ...
    ValueError: params and masks differ: params have no leaf at 'b'
    """
    one, other = named_leaves(first, names[0]), named_leaves(second, names[1])
    differing = one.keys() ^ other.keys()
    if differing:
        path = min(differing)
        lacks = names[1] if path in one else names[0]
        raise ValueError(f"{names[0]} and {names[1]} differ: {lacks} have no leaf at {path!r}")
    return one, other


def rehang(tree: PyTree, like: PyTree, names: tuple[str, str] = ("tree", "params")) -> PyTree:
    """Return the leaves of one tree on the nodes of another one that has the same names.

    Args:
      tree: any pytree; its leaves may be `None`, as in masks, also where `like` has an array.
      like: the tree whose nodes, wrappers included, the result has.
      names: what both are called in an error.

    Returns:
      A tree that `jax.tree.map(f, like, ...)` takes beside `like`.

    Raises:
      ValueError: if only one of the trees has a leaf at some path (which is named).

    >>> import flax
    >>> masks = flax.core.freeze({"layers": {"0": True, "1": None}})
    >>> rehang(masks, {"layers": [1.0, 2.0]})
    {'layers': [True, None]}
    """
    nodes: list[Any] = [jax.tree.structure(t, is_leaf=is_none) for t in (tree, like)]
    if nodes[0] == nodes[1]:
        return tree
    leaves, places = same_names(tree, like, names)
    hung = iter(places)
    return jax.tree.map(lambda _: leaves[next(hung)], like, is_leaf=is_none)
