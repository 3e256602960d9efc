"""What a ticket file says: a header, bit masks and kept values, as a few arrays.

`header` is JSON: tree structures, dtypes, shapes, metadata, and the SHA-256 of every array below.
`masks` holds one bit for every weight of the sparse leaves, each leaf padded to whole bytes. For
every dtype, `values.<dtype>` holds the kept values of all its leaves one after another, the params
before the batch statistics. `digest` is the SHA-256 of the header: one digest that vouches for all
arrays, and for the metadata without reading the weights. Version 1 had no digests.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supjax.masks import check_masks
from supjax.ticket_io.archive import RefusedError
from supjax.ticket_io.nodes import decode, encode, numbered, plain
from supjax.trees import is_none, path_str, rehang
from supjax.types import PyTree, Ticket

FORMAT = "supjax-ticket"
VERSION = 2
FIELDS = {"format", "version", "params", "batch_stats", "leaves", "metadata"}
MOST_DIMS = 64
"""NumPy's own limit."""

_NATIVE = {name: np.dtype(name) for name in (np.dtype(code).name for code in "?bhiqBHIQefdFD")}
_EXTENDED = re.compile(r"bfloat16|u?int[24]|float[468]_e\w+")
DTYPES = _NATIVE | {
    name: np.dtype(getattr(jnp, name)) for name in dir(jnp) if _EXTENDED.fullmatch(name)
}
"""What leaves may be, by name; the name alone means different things to NumPy and JAX."""


class Record(NamedTuple):
    """What the header says about a leaf.

    Attributes:
      dtype: its dtype.
      shape: its shape.
      kept: how many weights its mask keeps; None where the leaf is dense.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    kept: int | None

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def stored(self) -> int:
        """Number of values in the file."""
        return self.size if self.kept is None else self.kept

    @property
    def mask_bytes(self) -> int:
        """Bytes of the packed mask."""
        return 0 if self.kept is None else -(-self.size // 8)

    @property
    def nbytes(self) -> int:
        """Bytes in memory of weights and mask."""
        return self.size * (self.dtype.itemsize + (self.kept is not None))


class Header(NamedTuple):
    """All that a ticket file holds besides numbers.

    Attributes:
      version: of the format.
      params: plain tree of numbers into `records`.
      batch_stats: the same for the statistics; their numbers follow.
      records: one of every leaf.
      metadata: the user's.
      digests: SHA-256 of every array by name, in hex; None in files of version 1.
    """

    version: int
    params: PyTree
    batch_stats: PyTree
    records: list[Record]
    metadata: dict[str, Any]
    digests: dict[str, str] | None

    @property
    def members(self) -> dict[str, tuple[np.dtype, int]]:
        """Dtype and length of every array by name."""
        lengths = {"masks": (np.dtype(np.uint8), sum(r.mask_bytes for r in self.records))}
        for record in self.records:
            name = f"values.{record.dtype.name}"
            dtype = _storable(record.dtype)
            lengths[name] = (dtype, lengths.get(name, (dtype, 0))[1] + record.stored)
        return lengths

    @property
    def nbytes(self) -> int:
        """Bytes in memory of the whole ticket."""
        return sum(record.nbytes for record in self.records)


def sha256(array: Any) -> str:
    """Return the SHA-256 of an array's bytes, in hex.

    >>> sha256(np.zeros(0))[:8]
    'e3b0c442'
    """
    return hashlib.sha256(memoryview(array).cast("B") if len(array) else b"").hexdigest()


def pack(ticket: Ticket, metadata: dict[str, Any]) -> tuple[Header, dict[str, np.ndarray]]:
    """Return the header and the arrays that make up a ticket's file.

    Args:
      ticket: see `supjax.save_ticket`.
      metadata: a dict that fits into JSON; NumPy and JAX numbers and arrays are converted.

    Raises:
      TypeError: a leaf, key or metadata of another kind.
      ValueError: masks that do not match, or weights outside them that are not zero.

    >>> ticket = Ticket({"w": np.float32([0, 2, 0])}, {"w": np.array([False, True, False])})
    >>> header, arrays = pack(ticket, {})
    >>> arrays["masks"], arrays["values.float32"]
    (array([64], dtype=uint8), array([2.], dtype=float32))
    """
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata must be a dict, got {type(metadata).__name__}")
    try:
        params, masks, stats = (plain(tree) for tree in ticket)
        params_numbers = numbered(params, 0)
        stats_numbers = numbered(stats, len(jax.tree.leaves(params)))
    except RecursionError as error:
        raise ValueError("a tree of the ticket is nested too deeply for a file") from error
    records: list[Record] = []
    bits = [np.zeros(0, np.uint8)]
    values: dict[str, list[np.ndarray]] = {}
    for path, leaf, mask in [*_paired(params, masks), *_paired(stats, None)]:
        array = _as_array(path, leaf)
        kept = array.ravel()
        if mask is not None:
            check_masks({path: array}, {path: mask})
            flags = np.asarray(mask).ravel()
            with np.errstate(invalid="ignore"):  # NaNs that signal
                outside = np.any(kept[~flags] != 0)
            if outside:
                raise ValueError(f"weights outside the mask must be zero, see {path!r}")
            bits.append(np.packbits(flags))
            kept = kept[flags]
        records.append(Record(array.dtype, array.shape, None if mask is None else kept.size))
        values.setdefault(array.dtype.name, []).append(kept)
    arrays = {
        "masks": np.concatenate(bits),
        **{
            f"values.{name}": np.concatenate(parts).view(_storable(DTYPES[name]))
            for name, parts in values.items()
        },
    }
    digests = {name: sha256(array) for name, array in arrays.items()}
    return Header(VERSION, params_numbers, stats_numbers, records, metadata, digests), arrays


def _paired(tree: PyTree, masks: PyTree) -> Iterator[tuple[str, Any, Any]]:
    """Yield `(path, leaf, mask or None)` in the order of `jax.tree`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_none)[0]
    flags: list[Any] = [None] * len(leaves)
    if masks is not None:
        flags = jax.tree.leaves(rehang(masks, tree, ("masks", "params")), is_leaf=is_none)
    for (path, leaf), mask in zip(leaves, flags, strict=True):
        if leaf is not None:
            yield path_str(path), leaf, mask
        elif mask is not None:
            raise ValueError(f"there is a mask but no weight at {path_str(path)!r}")


def _as_array(path: str, leaf: Any) -> np.ndarray:
    try:
        array = np.asarray(leaf)
    except TypeError:  # typed PRNG keys
        array = np.asarray(None)
    if array.dtype.name not in DTYPES:
        got = type(leaf).__name__ if array.dtype.kind in "OUSV" else array.dtype.name
        raise TypeError(
            f"leaves must be numeric arrays, got {got} at {path!r}: pass the weights alone, as "
            "nnx.state(model, nnx.Param) or equinox.filter(model, equinox.is_array) gives them"
        )
    return array.astype(DTYPES[array.dtype.name], copy=False)


def _storable(dtype: np.dtype) -> np.dtype:
    """Return the dtype in the file: what the npy format does not know is unsigned integers."""
    return dtype if dtype.name in _NATIVE else np.dtype(f"u{dtype.itemsize}")


def write_header(header: Header) -> bytes:
    """Return a header as JSON.

    Raises:
      TypeError: metadata that does not fit into JSON.

    >>> read_header(write_header(pack(Ticket({}, {}), {"seed": 1})[0])).metadata
    {'seed': 1}
    """
    fields = {
        "format": FORMAT,
        "version": header.version,
        "params": encode(header.params),
        "batch_stats": encode(header.batch_stats),
        "leaves": [[r.dtype.name, r.shape, r.kept] for r in header.records],
        "metadata": header.metadata,
        "digests": header.digests,
    }
    try:
        return json.dumps(fields, separators=(",", ":"), default=_json_value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"metadata must fit into JSON: {error}") from error


def _json_value(value: Any) -> Any:
    """Turn NumPy and JAX numbers and arrays in metadata into Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def read_header(text: bytes) -> Header:
    """Return the header that `write_header` wrote, after checking all that it says.

    Raises:
      ValueError: another format, a newer version, or contents that `pack` does not write.

    >>> read_header(b'{"format": "npz"}')
    Traceback (most recent call last):
      ...
    supjax.ticket_io.archive.RefusedError: its format is not 'supjax-ticket'
    """
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise RefusedError(f"its format is not {FORMAT!r}")
    version = fields.get("version")
    if type(version) is not int or version < 1:
        raise ValueError(f"its format version is {version!r}")
    if version > VERSION:
        raise RefusedError(f"format version {version} needs a newer supjax")
    expected = FIELDS | ({"digests"} if version > 1 else set())
    if differing := expected ^ fields.keys():
        fault = "no" if min(differing) in expected else "an unknown"
        raise ValueError(f"its header has {fault} field {min(differing)!r}")
    if not isinstance(fields["metadata"], dict):
        raise ValueError("its metadata is no dict")
    if not isinstance(fields["leaves"], list):
        raise ValueError("its leaves are no list")
    records = [_record(entry) for entry in fields["leaves"]]
    params, stats = decode(fields["params"]), decode(fields["batch_stats"])
    count = len(jax.tree.leaves(params))
    numbers = [*sorted(jax.tree.leaves(params)), *sorted(jax.tree.leaves(stats))]
    if numbers != list(range(len(records))):
        raise ValueError("its trees do not name every leaf once")
    if any(record.kept is not None for record in records[count:]):
        raise ValueError("its batch statistics have masks")
    header = Header(version, params, stats, records, fields["metadata"], fields.get("digests"))
    if version > 1 and (
        not isinstance(header.digests, dict) or header.digests.keys() != header.members.keys()
    ):
        raise ValueError("its digests are not those of its members")
    return header


def _record(entry: Any) -> Record:
    if isinstance(entry, list) and len(entry) == 3:
        name, shape, kept = entry
        if isinstance(name, str) and isinstance(shape, list) and len(shape) <= MOST_DIMS:
            numbers = shape if kept is None else [*shape, kept]
            if name in DTYPES and all(type(n) is int and 0 <= n < 2**63 for n in numbers):
                record = Record(DTYPES[name], tuple(shape), kept)
                if record.stored <= record.size < 2**63:
                    return record
    raise ValueError(f"its header describes no leaf: {entry!r}")


def unpack(
    header: Header, read: Callable[[str, np.dtype, int], np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Return all leaves of a ticket, and their masks.

    Args:
      header: what `read_header` returns.
      read: returns an array by name, dtype and length.

    Raises:
      ValueError: header and arrays contradict each other.

    >>> ticket = Ticket({"w": np.float32([0, -0.0])}, {"w": np.array([False, True])})
    >>> header, arrays = pack(ticket, {})
    >>> unpack(header, lambda name, dtype, count: arrays[name])
    ([array([ 0., -0.], dtype=float32)], [array([False,  True])])
    """
    arrays: dict[str, np.ndarray] = {}
    for name, (dtype, length) in header.members.items():
        arrays[name] = read(name, dtype, length)
        if header.digests is not None and sha256(arrays[name]) != header.digests[name]:
            raise RefusedError(
                f"member {name!r} is not the one that its header was written with: "
                "copy the file again or save it anew"
            )
    leaves: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    for record in header.records:
        flags = None
        if record.kept is not None:
            bits = _take(arrays, "masks", record.mask_bytes)
            flags = np.unpackbits(bits, count=record.size).view(bool)
            if np.count_nonzero(flags) != record.kept:
                raise ValueError("masks and header contradict each other")
        kept = _take(arrays, f"values.{record.dtype.name}", record.stored)
        if record.dtype == bool and np.any(kept.view(np.uint8) > 1):
            raise ValueError("member 'values.bool' holds more than 0 and 1")
        leaf = np.zeros(record.size, record.dtype)
        leaf[... if flags is None else flags] = kept.view(record.dtype)
        leaves.append(leaf.reshape(record.shape))
        masks.append(None if flags is None else flags.reshape(record.shape))
    return leaves, masks


def _take(arrays: dict[str, np.ndarray], name: str, count: int) -> np.ndarray:
    """Cut the first entries off an array."""
    taken, arrays[name] = arrays[name][:count], arrays[name][count:]
    return taken
