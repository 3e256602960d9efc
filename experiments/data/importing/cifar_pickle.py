"""Pickles of CIFAR batches: arrays and plain containers, read without NumPy's own unpickling.

A pickle can ask for any call and for any amount of memory. This reader makes no call but its own,
keeps what a pickle refers back to in a dictionary (the reader in C sizes a list by what the file
says), and builds arrays only of bytes that are there.
"""

import io
import math
import pickle
import warnings
from typing import Any

import numpy as np

from experiments.data.checks import DataError

_KINDS = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "b1", "f2", "f4", "f8"}


class _Type:
    """An array's type, as `numpy.dtype(kind, ...)` and its state describe it."""

    def __init__(self, kind: Any, *_: Any) -> None:
        self.kind, self.order = kind.decode() if isinstance(kind, bytes) else kind, "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.order = ">" if order == ">" else "<"

    def dtype(self) -> np.dtype:
        """Return NumPy's type."""
        if self.kind not in _KINDS:
            raise DataError(f"has an array of type {str(self.kind)[:20]!r}; images are uint8")
        return np.dtype(f"{self.order}{self.kind}")


class _Array:
    """An array, as `numpy.ndarray`'s state describes it."""

    def __init__(self, *_: Any) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        dtype = kind.dtype()
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            raise DataError("has an array whose size is not that of its values")
        order: Any = "F" if fortran else "C"
        self.values = np.frombuffer(data, dtype).reshape(shape, order=order)


def _nothing() -> Any:
    raise DataError("calls for an array without a shape")


def _no_bytes() -> bytes:
    """Return Python 3's empty bytes, which the pickles of Python 2 write as a call."""
    return b""


class _Reader(pickle._Unpickler):
    """The reader in Python, for the sake of its memo, and without the operation that reserves.

    Attributes:
      dispatch: what each operation does.
    """

    dispatch = {  # noqa: RUF012  (never mutated)
        code: operation
        for code, operation in pickle._Unpickler.dispatch.items()
        if code != ord(pickle.BYTEARRAY8)
    }

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._left = len(data)

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for what a batch may name.

        Raises:
          UnpicklingError: for everything else, which is never called.
        """
        if module.split(".")[0] == "numpy":
            if name in ("_reconstruct", "dtype"):
                return {"_reconstruct": _Array, "dtype": _Type}[name]
            if name == "ndarray":
                return _nothing
        if (module, name) in (("__builtin__", "bytes"), ("builtins", "bytes")):
            return _no_bytes
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        raise pickle.UnpicklingError(f"a CIFAR batch holds no {module}.{name}")

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """Return Python 3's way to write bytes as text; together no more than the pickle has."""
        self._left -= len(text)
        if encoding not in ("latin1", "latin-1", b"latin1") or self._left < 0:
            raise DataError("has bytes in an unknown form")
        return text.encode("latin1")


def unpickle(data: bytes) -> dict[bytes, Any]:
    """Return the dictionary of a CIFAR batch, whose keys become bytes.

    Args:
      data: the pickle, of Python 2 or 3.

    Raises:
      DataError: if it is damaged, or holds anything but arrays, numbers, text and containers.

    >>> unpickle(pickle.dumps({"data": np.zeros((1, 2), np.uint8)}, 2))
    {b'data': array([[0, 0]], dtype=uint8)}
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = _Reader(data).load()
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"is no CIFAR batch ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"is no CIFAR batch: it holds a {type(content).__name__}, not a dictionary")
    return {
        key.encode() if isinstance(key, str) else key: (
            value.values if isinstance(value, _Array) else value
        )
        for key, value in content.items()
        if isinstance(key, str | bytes)
    }
