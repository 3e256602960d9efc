"""Arrays of numbers in MATLAB files of version 5 to 7, whose checksums are all read.

SciPy reads compressed variables only as far as their arrays go, before the checksum, and reserves
what a header declares. The format: MathWorks, MAT-File Format (chapter 1, level 5).
"""

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.checks import DataError, naming
from experiments.data.files import regular_size, unpacked_limit
from supjax.checks import some

_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_NUMBERS |= {12: "i8", 13: "u8"}
_NUMERIC_CLASSES = range(6, 16)
_NOT_REAL = 0x0A00  # Complex or logical.
_START = 4096  # Bytes of a variable that hold its class, shape and name.


class MatFile(NamedTuple):
    """Variables of a file.

    Attributes:
      arrays: by name.
      checked: whether every variable that was read had a checksum.
    """

    arrays: dict[str, np.ndarray]
    checked: bool


def read_mat(path: Path, wanted: Collection[str]) -> MatFile:
    """Return the variables of these names that a file has.

    Args:
      path: the file.
      wanted: names; other variables are passed over.

    Raises:
      DataError: if it is no such file, is damaged, or a variable holds no real numbers; the line
        does not name the file.
    """
    size = regular_size(path)
    arrays: dict[str, np.ndarray] = {}
    checked = True
    with path.open("rb") as file:
        order = _byte_order(file.read(_HEADER))
        while tag := file.read(8):
            kind, count = struct.unpack(f"{order}II", tag)
            if count > size - file.tell():
                raise DataError(f"is cut short: a variable of {count} bytes does not fit")
            data = file.read(count)
            if kind == _COMPRESSED:
                data = _unpacked(data, order, wanted, unpacked_limit(size))
            elif kind != _MATRIX:
                raise DataError(f"is damaged: there is no variable of kind {kind}; get it again")
            parts = _Parts(data, order)
            name = parts.name()
            if name in wanted:
                with naming(name):
                    if name in arrays:
                        raise DataError("is there twice")
                    arrays[name] = parts.array()
                checked &= kind == _COMPRESSED
    return MatFile(arrays, checked)


def _byte_order(header: bytes) -> str:
    if len(header) < _HEADER or header[126:] not in (b"IM", b"MI"):
        raise DataError("is no MATLAB file of version 5 to 7; save it with -v7")
    if header[124:126] not in (b"\x00\x01", b"\x01\x00"):
        raise DataError("is a MATLAB file of version 7.3 or newer; save it with -v7")
    return "<" if header[126:] == b"IM" else ">"


def _unpacked(data: bytes, order: str, wanted: Collection[str], limit: int) -> bytes:
    """Return the content of a compressed variable, only its start if it is not wanted."""
    start = zlib.decompressobj().decompress(data, _START)
    if len(start) < 8:
        raise DataError("is cut short in a compressed variable")
    kind, count = struct.unpack(f"{order}II", start[:8])
    if kind != _MATRIX:
        raise DataError(f"is damaged: there is no compressed variable of kind {kind}")
    if _Parts(start[8:], order).name() not in wanted:
        return start[8:]
    if count > limit:
        raise DataError(f"declares {count >> 20} MiB, more than its size allows")
    reader = zlib.decompressobj()
    content = reader.decompress(data, count + 9)
    if not reader.eof or len(content) != count + 8:  # Only at its end is the checksum compared.
        raise DataError(f"is damaged: a variable of {count} bytes has not that length")
    return content[8:]


class _Parts:
    """The parts of a variable: flags, shape, name, values."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.at = memoryview(data), order, 0
        flags = self._numbers(self._next())
        shape = self._numbers(self._next())
        self.flags = int(flags[0]) if len(flags) == 2 else 0
        self.shape = tuple(int(side) for side in shape)

    def _next(self) -> tuple[int, memoryview]:
        """Return kind and content of the next part."""
        if self.at + 8 > len(self.data):
            raise DataError("is cut short in a variable")
        kind, count = struct.unpack_from(f"{self.order}II", self.data, self.at)
        start = self.at + 8
        if kind >> 16:  # A small part has its content in the tag.
            kind, count, start = kind & 0xFFFF, kind >> 16, self.at + 4
            self.at += 8
        else:
            self.at = start + count + -count % 8
        if start + count > len(self.data):
            raise DataError("is cut short in a variable")
        return kind, self.data[start : start + count]

    def _numbers(self, part: tuple[int, memoryview]) -> np.ndarray:
        kind, content = part
        if kind not in _NUMBERS:
            raise DataError(f"is damaged: there are no numbers of kind {kind}; get it again")
        return np.frombuffer(content, np.dtype(f"{self.order}{_NUMBERS[kind]}"))

    def name(self) -> str:
        """Return the variable's name."""
        return bytes(self._next()[1]).decode("ascii", "replace")

    def array(self) -> np.ndarray:
        """Return the variable's values, which come behind its name."""
        if self.flags & 0xFF not in _NUMERIC_CLASSES or self.flags & _NOT_REAL:
            raise DataError("holds no real numbers")
        values = self._numbers(self._next())
        if min(self.shape, default=-1) < 0 or math.prod(self.shape) != len(values):
            raise DataError(f"declares shape {some(self.shape)}, but has {len(values)} values")
        return values.reshape(self.shape, order="F")
