"""Tickets on disk: one compact npz with bit masks and the kept values; no pickle.

This is the only file access of the library. `format` says what a file holds, `nodes` how trees of
any node type become data, `archive` reads and writes the arrays.
"""

import contextlib
import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from supjax.checks import check_count
from supjax.ticket_io.archive import MOST_TEXT, SMALL_TEXT, Archive, RefusedError, write
from supjax.ticket_io.format import Header, pack, read_header, sha256, unpack, write_header
from supjax.ticket_io.nodes import hang, leaf_names, plain, stored_names
from supjax.trees import path_str
from supjax.types import PyTree, Ticket

ROOM, GROWTH = 1 << 26, 1000
"""A ticket may take so many bytes in memory, or so many times its file: 0.1 % of dense weights."""

VARIANCES = {"var", "variance", "running_var", "var_ema"}
"""Names of running variances in linen, nnx, PyTorch and Haiku."""

LONGEST_REASON = 400
"""Characters of what went wrong; names in a stranger's file may be long."""


def save_ticket(
    path: str | os.PathLike[str], ticket: Ticket, metadata: dict[str, Any] | None = None
) -> None:
    """Write a ticket to one compact file, in place of any older one, all or nothing.

    Sparse leaves cost one bit a weight (before compression) plus their kept values, bit for bit;
    what a mask leaves out comes back as +0. The file is complete on disk before it takes its name,
    so that a crash or a full disk leaves an older file as it was.

    Args:
      path: where to write; the name is taken as it is.
      ticket: trees of any node types (dicts, lists, NamedTuples, dataclasses, FrozenDicts,
        `nnx.State`, Equinox modules, ...), with array leaves of any numeric dtype; dict keys are
        strings, integers or tuples of them. Weights outside the masks must be zero. The file is
        data only: `load_ticket(path, like=params)` brings the node types back.
      metadata: whatever JSON can hold (and NaN), for example accuracy and configuration.

    Raises:
      TypeError: another kind of leaf, key or metadata.
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
    header, arrays = pack(ticket, {} if metadata is None else metadata)
    text = np.frombuffer(write_header(header), np.uint8)
    if text.nbytes > MOST_TEXT:
        raise ValueError(f"trees and metadata take {text.nbytes} bytes, at most {MOST_TEXT} fit")
    digest = np.frombuffer(bytes.fromhex(sha256(text)), np.uint8)
    values = sum(array.nbytes for name, array in arrays.items() if name != "masks")
    deflated = {
        *(["header"] if text.nbytes <= SMALL_TEXT else []),
        *(["masks"] if header.nbytes <= _room(values) else []),  # a reader must not fear a bomb
    }
    with _replacing(Path(os.fsdecode(path))) as file:
        write(file, {"header": text, **arrays, "digest": digest}, deflated)


def load_ticket(
    path: str | os.PathLike[str], like: Any = None, *, max_bytes: int | None = None
) -> Ticket:
    """Read a ticket that `save_ticket` wrote, bit for bit.

    What the file says about its sizes is compared with the file (and with `like`) before memory
    is taken, and its one digest with all that was read. Two things are said by a `UserWarning`:
    a file of format version 1, which has no digest; and numbers that no network can be used with,
    which a diverged run leaves (`supjax.ticket_io.check_ticket` raises for them).

    Args:
      path: the file.
      like: the network's params (arrays or `jax.ShapeDtypeStruct`), or a `Ticket` whose params and
        batch statistics are meant. The file must hold the same leaf names, shapes and dtypes; the
        result has the node types of `like`, wrappers such as `nnx.Param` included, and its masks
        have `None` for dense leaves on the same nodes. Without it, plain dicts, lists and tuples
        come back as such, and every other node as a dict of its children's names.
      max_bytes: of memory for weights and masks; default: what `like` takes, otherwise 64 MiB
        or 1000 times the file, whichever is more. All files that this version writes need less.

    Returns:
      The ticket, with NumPy arrays as leaves: exact in every dtype and on no device yet.

    Raises:
      ValueError: the file is no ticket, is damaged or cut short, of a newer format version, too
        large, or does not fit `like`; one line that names the file.
      OSError: the file cannot be read.

    >>> load_ticket(__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    ValueError: ... is no readable ticket: File is not a zip file: it is cut short, or ...
    """
    params, stats = (like.params, like.batch_stats) if isinstance(like, Ticket) else (like, None)
    if max_bytes is not None:
        check_count(max_bytes, "max_bytes")
    shown = _shown(path)
    with _opened(path) as file:
        with _explained(shown):
            archive = Archive(file)
            header = _read_header(archive)
        for field, template in (("params", params), ("batch_stats", stats)):
            if template is not None:
                _check_fits(header, field, template, shown)
        if like is None or max_bytes is not None:
            room = _room(archive.size) if max_bytes is None else max_bytes
            if header.nbytes > room:
                raise ValueError(
                    f"{shown} has {archive.size} bytes and would take {header.nbytes} in memory, "
                    f"over {room}: if you trust it, pass max_bytes={header.nbytes}"
                )
        with _explained(shown):
            leaves, masks = unpack(header, archive.read)
            ticket = Ticket(
                params=hang(leaves, header.params, params),
                masks=hang(masks, header.params, params),
                batch_stats=hang(leaves, header.batch_stats, stats),
            )
    _say_version(header, shown)
    try:
        check_ticket(ticket)
    except ValueError as error:
        warnings.warn(f"{shown}: {error}", stacklevel=2)
    return ticket


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read only the metadata of a ticket file.

    The digest vouches for them, too; a `UserWarning` says when the file has none.

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
    shown = _shown(path)
    with _opened(path) as file, _explained(shown):
        header = _read_header(Archive(file))
    _say_version(header, shown)
    return header.metadata


def check_ticket(ticket: Ticket) -> None:
    """Raise a one-line `ValueError` if no network can be used with the numbers of a ticket.

    Args:
      ticket: weights and running statistics.

    Raises:
      ValueError: weights or statistics that are NaN or infinite, or negative running variances;
        the first such leaf is named.

    >>> check_ticket(Ticket({"w": np.float32([1, np.nan])}, {"w": None}))
    Traceback (most recent call last):
      ...
    ValueError: 1 of 2 numbers are NaN or infinite in params at 'w'
    """
    for field, tree in (("params", ticket.params), ("batch_stats", ticket.batch_stats)):
        for path, leaf in jax.tree_util.tree_flatten_with_path(plain(tree))[0]:
            name, array = path_str(path), np.asarray(leaf)
            faults = {}
            if jnp.issubdtype(array.dtype, jnp.inexact):
                faults["NaN or infinite"] = ~np.isfinite(array)
                if VARIANCES & set(name.split("/")) and field == "batch_stats":
                    with np.errstate(invalid="ignore"):
                        faults["negative variances"] = array.real < 0
            for fault, places in faults.items():
                if count := np.count_nonzero(places):
                    where = f"in {field} at {_cut(repr(name))}"
                    raise ValueError(f"{count} of {array.size} numbers are {fault} {where}")


def _check_fits(header: Header, field: str, like: PyTree, shown: str) -> None:
    """Raise a one-line `ValueError` unless names, shapes and dtypes are those of the template."""
    what = f"{shown} does not fit `like`: {field}"
    leaves, records = jax.tree.leaves(like), header.records
    stored, wanted = stored_names(getattr(header, field), field), leaf_names(like, "tree `like`")
    if differing := stored.keys() ^ wanted.keys():
        path = min(differing)
        only = "only the file has a leaf" if path in stored else "the file has no leaf"
        raise ValueError(f"{what} differ, {only} at {_cut(repr(path))}")
    for path, place in wanted.items():
        record = records[stored[path]]
        found = record.shape, record.dtype.name
        if found != (expected := _shape_and_dtype(leaves[place])):
            raise ValueError(
                f"{what} at {_cut(repr(path))} are {found[1]} of shape {found[0]}, "
                f"`like` has {expected[1]} of shape {expected[0]}"
            )


def _shape_and_dtype(leaf: Any) -> tuple[tuple[int, ...], str]:
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return tuple(leaf.shape), getattr(leaf.dtype, "name", str(leaf.dtype))


def _read_header(archive: Archive) -> Header:
    text = archive.read_text("header")
    header = read_header(text)
    dated = header.digests is not None
    archive.check_members(["header", *header.members, *(["digest"] if dated else [])])
    if dated:
        digest = archive.read("digest", np.dtype(np.uint8), 32)
        if digest.tobytes().hex() != sha256(text):
            raise RefusedError("its digest is another one's: copy it again or save it anew")
    return header


def _say_version(header: Header, shown: str) -> None:
    """Warn, for the caller of the caller, of a file that has no digest."""
    if header.digests is None:
        warnings.warn(
            f"{shown} is of format version {header.version}, which has checksums but no digest: "
            "save it again to add one",
            stacklevel=3,
        )


def _room(size: int) -> int:
    """Return how many bytes a ticket may take in memory whose file has so many."""
    return max(ROOM, GROWTH * size)


def _shown(path: str | os.PathLike[str]) -> str:
    """Return a path as one line."""
    name = os.fsdecode(path)
    return name if name.isprintable() else repr(name)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading; a pipe without a writer is not waited for."""
    at_once = getattr(os, "O_NONBLOCK", 0)
    return open(os.fspath(path), "rb", opener=lambda name, flags: os.open(name, flags | at_once))


@contextlib.contextmanager
def _explained(shown: str) -> Iterator[None]:
    """Turn whatever a foreign or damaged file makes fail into one `ValueError` of one line."""
    try:
        yield
    except MemoryError as error:
        raise ValueError(f"{shown} needs more memory than there is: {error}") from error
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        advice = "" if isinstance(error, RefusedError) else ": copy it again or save it anew"
        raise ValueError(f"{shown} is no readable ticket: {_cut(reason)}{advice}") from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file beside `path` that takes its name once it is complete on disk."""
    stem = path.name if len(os.fsencode(path.name)) < 200 else path.name[:40]
    temporary = path.with_name(f".{stem}.{uuid.uuid4().hex[:8]}.tmp")
    with open(temporary, "xb") as file:  # never through a link that lies there
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
