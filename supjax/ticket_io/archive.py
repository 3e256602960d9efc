"""The arrays of an npz file, one dimension each, written and read with sizes known beforehand.

Whatever a file claims about its sizes is compared with the file before memory is taken: a stranger
may have written it. NumPy's own reader believes the claims and is not used.
"""

import os
import re
import stat
import zipfile
from collections.abc import Collection, Mapping, Sequence
from typing import BinaryIO

import numpy as np

PIECE = 1 << 24
"""Bytes that are decompressed at a time."""

EXPANSION = 1040
"""No deflated stream becomes more times larger than this."""

MOST_TEXT, SMALL_TEXT, TEXT_EXPANSION = 1 << 26, 1 << 20, 40
"""Bytes of the longest text; a longer one than the small is at most so often its compressed size:
JSON takes many times its size in memory. Headers of networks shrink to an eighth or tenth."""

_PREAMBLE = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([^']{1,8})', 'fortran_order': (?:True|False), "
    rb"'shape': \((\d{1,19}),\), \} *\n",
    re.DOTALL,
)


class RefusedError(ValueError):
    """A file that is not as it should be; the text ends in what to do."""


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray], deflated: Collection[str]) -> None:
    """Write one-dimensional arrays as an npz file; the same arrays give the same bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")  # without the time of day
            if name in deflated:
                info.compress_type = zipfile.ZIP_DEFLATED
            info.file_size = array.nbytes  # says whether the member needs 64-bit sizes
            with archive.open(info, "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


class Archive:
    """An npz file opened for reading.

    Attributes:
      size: bytes of the whole file.
    """

    def __init__(self, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError("it is no regular file: name the file that save_ticket wrote")
        self.size = status.st_size
        try:
            self._zip = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise RefusedError(
                f"{error}: it is cut short, or was not written by save_ticket"
            ) from error
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename or name in self._infos:
                raise RefusedError(f"it has a member {info.filename!r} too many: save it anew")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise RefusedError(f"member {name!r} is not stored or deflated: save it anew")
            self._infos[name] = info

    def check_members(self, expected: Sequence[str]) -> None:
        """Raise a `RefusedError`, naming the first, unless the file has just these members."""
        for name in [*self._infos, *expected]:
            if name not in expected or name not in self._infos:
                fault = "an unknown" if name in self._infos else "no"
                raise RefusedError(f"it has {fault} member {name!r}: copy it again or save it anew")

    def read_text(self, name: str) -> bytes:
        """Return a member of any length that is text, if it is no bomb."""
        info = self._checked(name)
        if info.file_size > min(MOST_TEXT, max(SMALL_TEXT, TEXT_EXPANSION * info.compress_size)):
            raise RefusedError(f"member {name!r} of {info.file_size} bytes is too long for a text")
        return self.read(name, np.dtype(np.uint8)).tobytes()

    def read(self, name: str, dtype: np.dtype, count: int | None = None) -> np.ndarray:
        """Return a member: `count` entries of that dtype.

        Args:
          name: the member's name, without `.npy`.
          dtype: of its entries.
          count: how many there must be; None takes what the file holds.

        Raises:
          RefusedError: no such member, a damaged one, or one of another dtype or length.
        """
        info = self._checked(name)
        if count is not None and not 0 <= info.file_size - count * dtype.itemsize <= 1024:
            raise self._misfit(name, dtype, count)
        buffer = bytearray(info.file_size)
        try:
            self._decompress(info, buffer)
        except Exception as error:
            raise RefusedError(
                f"member {name!r} is damaged ({error or type(error).__name__}): copy the file again"
            ) from error
        preamble = _PREAMBLE.match(buffer)
        if preamble is None or int.from_bytes(preamble[1], "little") + 10 != preamble.end():
            raise RefusedError(f"member {name!r} is no one-dimensional array: save it anew")
        found = int(preamble[3])
        descr = preamble[2].replace(b"<f1", b"|u1")  # float8_e5m2 in files of version 1
        if (
            descr.decode("latin-1") != dtype.str
            or found != (found if count is None else count)
            or preamble.end() + found * dtype.itemsize != len(buffer)
        ):
            raise self._misfit(name, dtype, found if count is None else count)
        return np.frombuffer(buffer, dtype, found, preamble.end())

    def _decompress(self, info: zipfile.ZipInfo, buffer: bytearray) -> None:
        filled = 0
        with self._zip.open(info) as member:
            while filled < len(buffer):
                piece = member.read(min(PIECE, len(buffer) - filled))  # compares the CRC at the end
                if not piece:
                    raise EOFError(f"it ends after {filled} of {len(buffer)} bytes")
                buffer[filled : filled + len(piece)] = piece
                filled += len(piece)

    def _checked(self, name: str) -> zipfile.ZipInfo:
        """Return what the directory says about a member, if it is possible in this file."""
        if name not in self._infos:
            raise RefusedError(f"it has no member {name!r}: it was not written by save_ticket")
        info = self._infos[name]
        largest = info.compress_size
        if info.compress_type == zipfile.ZIP_DEFLATED:
            largest = EXPANSION * (info.compress_size + 1)
        if info.compress_size > self.size or info.file_size > largest:
            raise RefusedError(
                f"member {name!r} of {info.file_size} bytes does not fit into the file: "
                "copy it again or save it anew"
            )
        return info

    def _misfit(self, name: str, dtype: np.dtype, count: int) -> RefusedError:
        return RefusedError(
            f"member {name!r} does not hold the {count} entries of {dtype.str!r} that its header "
            "speaks of: copy it again or save it anew"
        )
