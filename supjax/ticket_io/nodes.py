"""Trees of any node type on dicts, lists and tuples, which JSON holds, and back onto a template.

A file of data only cannot name a class to build. A node that is no plain dict, list or tuple is
therefore kept as a dict of its children's names: what its key paths say, without wrappers.
"""

import operator
from typing import Any

import jax

from supjax.trees import is_wrapped, named_leaves, path_str
from supjax.types import PyTree


def plain(tree: PyTree) -> PyTree:
    """Return the tree on dicts, lists and tuples, with the same leaves under the same names.

    Plain dicts, lists and tuples stay what they are, wrapped leaves (`nnx.Variable`) become what
    they wrap, and every other node becomes a dict. `None` stays.

    Raises:
      TypeError: a key that JSON cannot hold: neither string nor integer nor a tuple of them.
      ValueError: two children of one name, or keys that JAX cannot sort.

    >>> import collections
    >>> plain(collections.namedtuple("Layer", "w b")(1.0, [2.0, None]))
    {'w': 1.0, 'b': [2.0, None]}
    """
    return _plain(tree, "")


def _plain(node: Any, path: str) -> Any:
    if node is None:
        return None
    try:
        children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
    except (TypeError, ValueError) as error:  # dict keys of several types
        raise ValueError(f"the keys at {path!r} cannot be sorted: name all by strings") from error
    if children and not children[0][0]:
        return node  # a leaf
    if is_wrapped(node):
        return _plain(children[0][1], path)
    entries = [entry for (entry,), _ in children]
    prefix = f"{path}/" if path else ""
    below = [_plain(child, prefix + path_str((entry,))) for (entry,), child in children]
    if type(node) in (list, tuple):
        return type(node)(below)
    keys = [_key(entry, path) for entry in entries]
    try:
        sorted(keys)
    except TypeError:  # an OrderedDict may hold them, the dict that takes its place may not
        keys = [path_str((entry,)) for entry in entries]
    if len(set(keys)) < len(keys):
        raise ValueError(f"two children of the {type(node).__name__} at {path!r} have one name")
    return dict(zip(keys, below, strict=True))


def _key(entry: Any, path: str) -> Any:
    """Return the key of a child as strings, integers and tuples."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return _checked(getattr(entry, attribute), path)
    return path_str((entry,))


def _checked(key: Any, path: str) -> Any:
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, tuple):
        return tuple(_checked(part, path) for part in key)
    if hasattr(key, "__index__"):
        return operator.index(key)
    raise TypeError(f"keys must be strings, integers or tuples of them, got {key!r} at {path!r}")


def numbered(tree: PyTree, start: int) -> PyTree:
    """Return the tree with its leaves replaced by their numbers, in the order of `jax.tree`.

    >>> numbered({"b": "x", "a": ("y", None)}, 5)
    {'a': (5, None), 'b': 6}
    """
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, range(start, start + len(leaves)))


def encode(node: Any) -> Any:
    """Return a plain tree of leaf numbers as JSON: containers become one-entry objects.

    >>> encode({"a": [0, None], "b": {(1, "x"): 1}})
    {'dict': {'a': {'list': [0, None]}, 'b': {'items': [[(1, 'x'), 1]]}}}
    """
    if node is None or isinstance(node, int):
        return node
    if not isinstance(node, dict):
        return {type(node).__name__: [encode(child) for child in node]}
    if all(isinstance(key, str) for key in node):
        return {"dict": {key: encode(child) for key, child in node.items()}}
    return {"items": [[key, encode(child)] for key, child in node.items()]}


def decode(spec: Any) -> Any:
    """Return the plain tree that `encode` was given.

    Raises:
      ValueError: JSON that `encode` does not write.

    >>> decode({"dict": {"a": {"list": [0, None]}, "b": {"items": [[[1, "x"], 1]]}}})
    {'a': [0, None], 'b': {(1, 'x'): 1}}
    """
    if spec is None or type(spec) is int:
        return spec
    if isinstance(spec, dict) and len(spec) == 1:
        ((kind, children),) = spec.items()
        if kind == "dict" and isinstance(children, dict):
            return {key: decode(child) for key, child in children.items()}
        if kind == "items" and isinstance(children, list):
            if all(isinstance(item, list) and len(item) == 2 for item in children):
                return {_decode_key(key): decode(child) for key, child in children}
        elif kind in ("list", "tuple") and isinstance(children, list):
            return {"list": list, "tuple": tuple}[kind](decode(child) for child in children)
    raise ValueError(f"its header describes no tree: {spec!r}")


def _decode_key(key: Any) -> Any:
    if isinstance(key, list):
        return tuple(_decode_key(part) for part in key)
    if isinstance(key, str | int):
        return key
    raise ValueError(f"its header has a key that is no string, integer or tuple: {key!r}")


def stored_names(numbers: PyTree, name: str) -> dict[str, int]:
    """Return the leaf numbers of a plain tree by their names; `None` is no leaf.

    Raises:
      ValueError: two leaves of the tree, which is called `name`, have the same name.

    >>> stored_names({"conv": [5, None], "bias": 4}, "params")
    {'bias': 4, 'conv/0': 5}
    """
    return {path: i for path, i in named_leaves(numbers, name).items() if i is not None}


def leaf_names(tree: PyTree, name: str) -> dict[str, int]:
    """Return the place of every leaf in `jax.tree.leaves(tree)` by its name.

    >>> leaf_names({"conv": [7.0, None], "bias": 8.0}, "params")
    {'bias': 0, 'conv/0': 1}
    """
    return stored_names(plain(numbered(tree, 0)), name)


def hang(leaves: list[Any], numbers: PyTree, like: PyTree | None) -> PyTree:
    """Return leaves of a file as a tree: as it was stored, or on the nodes of a template.

    Args:
      leaves: all leaves of the file, `None` among them.
      numbers: plain tree of numbers into `leaves`.
      like: a template with the same names, whose wrappers are kept, or None.

    >>> import collections
    >>> hang(["w", "b"], {"w": 0, "b": 1}, collections.namedtuple("Layer", "b w")(1.0, 2.0))
    Layer(b='b', w='w')
    """
    if like is None:
        return jax.tree.map(lambda number: leaves[number], numbers)
    stored, places = stored_names(numbers, "file"), leaf_names(like, "template")
    in_order = sorted(places, key=places.__getitem__)
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[stored[path]] for path in in_order])
