"""Reading strangers' files: regular ones, to the end of every checksum, in bounded pieces."""

import bz2
import gzip
import io
import lzma
import stat
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from experiments.data.checks import DataError

PIECE = 1 << 20
"""Bytes read at a time."""

_FREE = 256 << 20  # Bytes that any file may unpack to.
_TIMES = 100  # What a larger file may unpack to, in its own size.
_COMPRESSED = {b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ\x00": lzma.LZMAFile}


class Readable(Protocol):
    """What can be read forward."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; none at the end."""
        ...


def regular_size(path: Path) -> int:
    """Return the bytes of a regular file.

    Raises:
      DataError: if it is a folder, a device, a pipe, or a link to nothing.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DataError(f"is a link to {path.readlink()}, where there is no file") from error
        raise
    if not stat.S_ISREG(status.st_mode):
        raise DataError("is no regular file")
    return status.st_size


def unpacked_limit(size: int) -> int:
    """Return the most bytes that a compressed file of this size may unpack to.

    Image files seldom shrink to a tenth; what shrinks to less than a hundredth is no image data.
    """
    return max(_FREE, _TIMES * size)


def is_compressed(path: Path) -> bool:
    """Return whether a file is gzip, bzip2 or xz by its first bytes, whatever its name."""
    with path.open("rb") as file:
        start = file.read(6)
    return any(start.startswith(magic) for magic in _COMPRESSED)


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file that may be compressed by gzip, bzip2 or xz, as its first bytes say.

    Raises:
      DataError: if it is no regular file.
    """
    regular_size(path)
    file = path.open("rb")
    start = file.peek(6)
    for magic, unpack in _COMPRESSED.items():
        if start.startswith(magic):
            file.close()
            return cast(BinaryIO, unpack(path))
    return file


class Limited(io.RawIOBase):
    """A stream that refuses to be longer than it may be.

    Attributes:
      stream: the stream.
      limit: bytes that it may have.
    """

    def __init__(self, stream: Readable, limit: int) -> None:
        super().__init__()
        self.stream, self.limit, self._left = stream, limit, limit

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return at most a piece; none at the end.

        Raises:
          DataError: if the limit is passed.
        """
        data = self.stream.read(PIECE if size < 0 else min(size, PIECE))
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"has more than {self.limit} bytes, too many for this set")
        return data

    def drain(self) -> None:
        """Read on to the end, where compressed streams keep their checksum."""
        while self.read(PIECE):
            pass


def read_all(stream: Readable, limit: int) -> bytes:
    """Return a stream's content up to its end, where compressed ones are checked.

    Args:
      stream: read in pieces.
      limit: bytes that it may have.

    Raises:
      DataError: if it has more.
    """
    limited, pieces = Limited(stream, limit), []
    while piece := limited.read(PIECE):
        pieces.append(piece)
    return b"".join(pieces)
