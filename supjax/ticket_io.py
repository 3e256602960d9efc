"""Tickets on disk: one compact npz with bit masks and the kept values; no pickle.

This is the only file access of the library; `ticket_format` says what the arrays in the file mean.
"""

import contextlib
import io
import os
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from supjax.ticket_format import members, pack, read_header, unpack
from supjax.types import Ticket


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
