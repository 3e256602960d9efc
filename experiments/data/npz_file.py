"""Arrays of an `.npz` file: only those that are wanted, in pieces, with every checksum read."""

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.checks import DataError, naming
from experiments.data.files import PIECE, Readable, regular_size, unpacked_limit
from supjax.checks import some

ALIASES = {"val": "validation", "valid": "validation"}
"""Other names of splits."""

_MAGIC = b"\x93NUMPY"
_HEADER = 10_000  # Bytes; NumPy writes 128.
_MEMBERS = 1000


def read_arrays(path: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Return arrays of an `.npz` file.

    Args:
      path: the file.
      wanted: whether an array of this name is read; the headers of all members are compared.

    Returns:
      `name -> array`; `val_images` and other names of splits are `validation_images`.

    Raises:
      DataError: if the file is damaged, or a member is there twice, holds Python objects, or
        declares a size that it does not have; the line does not name the file.
    """
    limit = unpacked_limit(regular_size(path))
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MEMBERS:
            raise DataError(f"has {len(members)} members, more than {_MEMBERS}")
        names = [_name(member.filename) for member in members]
        if len(set(names)) < len(names):
            raise DataError(f"has {some(n for n in set(names) if names.count(n) > 1)} twice")
        declared = sum(m.file_size for m, name in zip(members, names, strict=True) if wanted(name))
        if declared > limit:
            raise DataError(f"declares {declared >> 20} MiB of arrays, more than its size allows")
        for name, member in zip(names, members, strict=True):
            with naming(name), archive.open(member) as stream:
                if wanted(name):
                    arrays[name] = _read_array(stream, member.file_size)
    return arrays


def _name(member: str) -> str:
    split, underscore, part = member.removesuffix(".npy").partition("_")
    return f"{ALIASES.get(split, split)}{underscore}{part}"


def _read_array(stream: Readable, size: int) -> np.ndarray:
    """Return the array of one `.npy` member of `size` bytes, which is read to its end."""
    start = stream.read(12)
    versions = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    if not start.startswith(_MAGIC) or len(start) < 12 or start[6] not in versions:
        raise DataError("is no NumPy array; save the set with np.savez")
    width = 2 * start[6]
    length = int.from_bytes(start[8 : 8 + width], "little")
    if length > _HEADER:
        raise DataError(f"declares a header of {length} bytes, more than {_HEADER}")
    header = start[8:] + stream.read(max(width + length - 4, 0))
    shape, fortran, dtype = versions[start[6]](io.BytesIO(header))
    if dtype.hasobject or dtype.itemsize == 0:
        raise DataError("holds Python objects; save numbers or fixed-length text (dtype=str)")
    count = math.prod(shape)
    if count * dtype.itemsize != size - 8 - len(header):
        raise DataError(f"declares {dtype} {shape}, but has {size - 8 - len(header)} bytes")
    array = np.empty(count, dtype)
    view: Any = memoryview(array.view(np.uint8))  # type: ignore[arg-type]
    for at in range(0, len(view), PIECE):
        piece = stream.read(min(PIECE, len(view) - at))
        if len(piece) < min(PIECE, len(view) - at):
            raise DataError("is cut short")
        view[at : at + len(piece)] = piece
    if stream.read(1):  # The end is where the checksum is compared.
        raise DataError("is longer than its header says")
    return array.reshape(shape, order="F" if fortran else "C")
