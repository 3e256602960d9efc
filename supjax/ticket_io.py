"""Tickets on disk: one compact npz with bit masks and the kept values; no pickle.

This is the only file access of the library.

`header` is JSON: tree structure, dtypes, shapes, metadata. `masks` holds one bit for every weight
of the sparse leaves, each leaf padded to whole bytes. For every dtype, `values.<dtype>` holds the
kept values of all its leaves one after another, the params before the batch statistics.

"""

import contextlib
import io
import itertools
import json
import math
import os
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from supjax.masks import paired
from supjax.trees import path_str
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


def save_ticket(
    path: str | os.PathLike[str], ticket: Ticket, metadata: dict[str, Any] | None = None
) -> None:
    """Write a ticket to one compact file, in place of any older one, all or nothing.

    Sparse leaves cost one bit a weight (before compression) plus their kept values, bit for bit;
    what a mask leaves out comes back as +0. The file is complete on disk before it takes its name,
    so that a crash or a full disk leaves an older file as it was.

    Args:
      path: where to write; the name is taken as it is.
      ticket: nested dicts (with string keys), lists, tuples and `None`, with array leaves of any
        numeric dtype; weights outside the masks must be zero.
      metadata: whatever JSON can hold, for example accuracy and configuration.

    Raises:
      TypeError: another kind of tree, leaf or metadata.
      ValueError: masks that do not match, or weights outside them that are not zero.
      OSError: the file cannot be written.

    >>> import tempfile
    >>> ticket = Ticket({"w": np.float32([0, 2])}, {"w": np.array([False, True])})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_ticket(f"{folder}/ticket.npz", ticket, {"accuracy": 0.93})
    ...     load_ticket(f"{folder}/ticket.npz").params["w"]
    array([0., 2.], dtype=float32)
    """
    if not isinstance(ticket, Ticket):
        raise TypeError(f"save_ticket takes a supjax.Ticket, got {type(ticket).__name__}")
    arrays = pack(ticket, {} if metadata is None else metadata)
    with _replacing(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            _write_array(archive, name, array)


def load_ticket(path: str | os.PathLike[str]) -> Ticket:
    """Read a ticket that `save_ticket` wrote, bit for bit.

    Args:
      path: the file.

    Returns:
      The ticket, with NumPy arrays as leaves: exact in every dtype and on no device yet.

    Raises:
      ValueError: the file is no ticket, is damaged or cut short, or of a newer format version.
      OSError: the file cannot be read.

    >>> load_ticket(__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    ValueError: ... is no readable ticket: File is not a zip file
    """
    with _reading(path) as archive:
        header = _read_header(archive)
        return unpack(header, {name: _read_array(archive, name) for name in members(header)})


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read only the metadata of a ticket file.

    Args:
      path: the file.

    Returns:
      What was given to `save_ticket`, as JSON returns it (tuples as lists).

    Raises:
      ValueError: as `load_ticket`.
      OSError: the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_ticket(f"{folder}/t", Ticket({}, {}), {"seed": 1})
    ...     load_metadata(f"{folder}/t")
    {'seed': 1}
    """
    with _reading(path) as archive:
        return _read_header(archive)["metadata"]


def _write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """Add one array; deflated but for the values: floats do not shrink."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    info = zipfile.ZipInfo(f"{name}.npy")  # without the time of day: same ticket, same bytes
    if not name.startswith("values."):
        info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    data = archive.read(f"{name}.npy")  # checks the CRC before anything is parsed
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def _read_header(archive: zipfile.ZipFile) -> dict[str, Any]:
    if "header.npy" not in archive.namelist():
        raise ValueError("it has no header")
    return read_header(_read_array(archive, "header"))


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """Open an archive; whatever a foreign or damaged file makes fail becomes one ValueError."""
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{os.fspath(path)} is no readable ticket: {reason}") from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file beside `path` that takes its name once it is complete on disk."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
