"""The content of a ticket file as a few arrays; files themselves are the business of `ticket_io`.

`header` is JSON: tree structure, dtypes, shapes, metadata. `masks` holds one bit for every weight
of the sparse leaves, each leaf padded to whole bytes. For every dtype, `values.<dtype>` holds the
kept values of all its leaves one after another, the params before the batch statistics.
"""

import itertools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supjax.masks import paired, path_str
from supjax.types import PyTree, Ticket

FORMAT = "supjax-ticket"
VERSION = 1


def pack(ticket: Ticket, metadata: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays that make up a ticket's file, `header` first.

    Args:
      ticket: see `supjax.ticket_io.save_ticket`.
      metadata: a dict that fits into JSON; NumPy and JAX numbers and arrays are converted.

    Returns:
      Arrays by name.

    Raises:
      TypeError: a tree, leaf or metadata of another kind.
      ValueError: masks that do not match, or weights outside them that are not zero.

    >>> ticket = Ticket({"w": np.float32([0, 2, 0])}, {"w": np.array([False, True, False])})
    >>> arrays = pack(ticket, {})
    >>> arrays["masks"], arrays["values.float32"]
    (array([64], dtype=uint8), array([2.], dtype=float32))
    """
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata must be a dict, got {type(metadata).__name__}")
    records: list[list[Any]] = []
    bits: list[np.ndarray] = []
    values: dict[str, list[np.ndarray]] = {}

    def add(path: str, leaf: Any, mask: Any) -> None:
        array = _as_array(path, leaf)
        kept = array.ravel()
        if mask is not None:
            flags = np.asarray(mask).ravel()
            if np.any(kept[~flags] != 0):
                raise ValueError(f"weights outside the mask must be zero, see {path!r}")
            bits.append(np.packbits(flags))
            kept = kept[flags]
        count = None if mask is None else kept.size
        records.append([array.dtype.name, array.shape, count])
        values.setdefault(array.dtype.name, []).append(kept)

    for path, leaf, mask in paired(ticket.params, ticket.masks):
        add(path, leaf, mask)
    for key_path, leaf in jax.tree_util.tree_flatten_with_path(ticket.batch_stats)[0]:
        add(path_str(key_path), leaf, None)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "params": _encode(_numbered(ticket.params, 0)),
        "batch_stats": _encode(_numbered(ticket.batch_stats, len(jax.tree.leaves(ticket.params)))),
        "leaves": records,
        "metadata": metadata,
    }
    try:
        text = json.dumps(header, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata must fit into JSON: {error}") from error
    return {
        "header": np.frombuffer(text.encode(), np.uint8),
        "masks": np.concatenate([np.zeros(0, np.uint8), *bits]),
        **{f"values.{name}": _storable(np.concatenate(parts)) for name, parts in values.items()},
    }


def read_header(array: np.ndarray) -> dict[str, Any]:
    """Return the header that `pack` wrote, after checking format and version.

    Raises:
      ValueError: another format, or a newer version of this one.

    >>> read_header(pack(Ticket({}, {}), {"seed": 1})["header"])["metadata"]
    {'seed': 1}
    """
    header = json.loads(array.tobytes())
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    if header["version"] > VERSION:
        raise ValueError(f"format version {header['version']} needs a newer supjax")
    return header


def members(header: dict[str, Any]) -> list[str]:
    """Return the names of the arrays that a header speaks of.

    >>> members(read_header(pack(Ticket({"w": np.zeros(2)}, {"w": None}), {})["header"]))
    ['masks', 'values.float64']
    """
    return ["masks", *{f"values.{name}": None for name, _, _ in header["leaves"]}]


def unpack(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Ticket:
    """Return the ticket that `pack` was given.

    Args:
      header: what `read_header` returns.
      arrays: the arrays that `members` names.

    Returns:
      The ticket with NumPy leaves.

    Raises:
      ValueError: header and arrays contradict each other.

    >>> arrays = pack(Ticket({"w": np.float32([0, -0.0])}, {"w": np.array([False, True])}), {})
    >>> unpack(read_header(arrays["header"]), arrays).params["w"]
    array([ 0., -0.], dtype=float32)
    """
    bits, rest = arrays["masks"], {name: arrays[name] for name in members(header)[1:]}
    leaves: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    for name, shape, count in header["leaves"]:
        size, kept = math.prod(shape), rest[f"values.{name}"]
        flags = None
        wanted = size
        if count is not None:
            wanted, width = count, -(-size // 8)
            _agree(bits.size >= width)
            flags, bits = np.unpackbits(bits[:width], count=size).astype(bool), bits[width:]
            _agree(np.count_nonzero(flags) == count)
        _agree(kept.size >= wanted)
        kept, rest[f"values.{name}"] = kept[:wanted].view(jnp.dtype(name)), kept[wanted:]
        array = np.zeros(size, kept.dtype)
        array[... if flags is None else flags] = kept
        leaves.append(array.reshape(shape))
        masks.append(None if flags is None else flags.reshape(shape))
    _agree(not bits.size and not any(left.size for left in rest.values()))
    params, stats = _decode(header["params"]), _decode(header["batch_stats"])
    return Ticket(
        params=jax.tree.map(lambda i: leaves[i], params),
        masks=jax.tree.map(lambda i: masks[i], params),
        batch_stats=jax.tree.map(lambda i: leaves[i], stats),
    )


def _agree(condition: bool) -> None:
    if not condition:
        raise ValueError("header and arrays contradict each other")


def _as_array(path: str, leaf: Any) -> np.ndarray:
    try:
        array = np.asarray(leaf)
    except TypeError:  # typed PRNG keys
        array = np.asarray(None)
    if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise TypeError(f"leaves must be numeric arrays, got {type(leaf).__name__} at {path!r}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _storable(array: np.ndarray) -> np.ndarray:
    """View dtypes that the npy format does not know, such as bfloat16, as unsigned integers."""
    native = array.dtype.kind in "biufc"
    return array if native else array.view(f"u{array.dtype.itemsize}")


def _plain(value: Any) -> Any:
    """Turn NumPy and JAX numbers and arrays in metadata into Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def _numbered(tree: PyTree, start: int) -> PyTree:
    """Return the tree with its leaves replaced by their numbers in the file."""
    count = itertools.count(start)
    return jax.tree.map(lambda _: next(count), tree)


def _encode(node: Any) -> Any:
    """Return a tree of leaf numbers as JSON: containers become one-entry objects."""
    if node is None or isinstance(node, int):
        return node
    if type(node) is dict:
        if odd := [key for key in node if not isinstance(key, str)]:
            raise TypeError(f"dict keys must be strings, got {odd[0]!r}")
        return {"dict": {key: _encode(child) for key, child in node.items()}}
    if type(node) in (list, tuple):
        return {type(node).__name__: [_encode(child) for child in node]}
    raise TypeError(
        f"a ticket file holds dicts, lists and tuples, got {type(node).__name__}: "
        "convert it with flax.serialization.to_state_dict"
    )


def _decode(spec: Any) -> Any:
    if spec is None or isinstance(spec, int):
        return spec
    ((kind, children),) = spec.items()
    if kind == "dict":
        return {key: _decode(child) for key, child in children.items()}
    return {"list": list, "tuple": tuple}[kind](_decode(child) for child in children)
