"""The original files of MNIST and its relatives: the IDX format, plain or compressed."""

import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.checks import DataError, naming
from experiments.data.files import (
    is_compressed,
    open_unpacked,
    read_all,
    regular_size,
    unpacked_limit,
)
from experiments.data.importing.source import Source, array_source
from supjax.checks import some

_SPLITS = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTES = b"\x00\x00\x08"


def read_idx_files(files: Mapping[str, Path], num_classes: int | None = None) -> Source:
    """Read `{train,t10k}-{images-idx3,labels-idx1}-ubyte`, each plain or compressed.

    Args:
      files: `file name -> path`; further files are ignored.
      num_classes: number of classes; if None, labels must be exactly `0 ... K - 1`.

    Returns:
      The source, in the files' own order.

    Raises:
      DataError: if a file is missing or damaged.
    """
    arrays, paths = {}, []
    for split, prefix in _SPLITS.items():
        images = _find(files, f"{prefix}-images-idx3-ubyte")
        labels = _find(files, f"{prefix}-labels-idx1-ubyte")
        arrays[split] = (read_idx(images, axes=3), read_idx(labels, axes=1))
        paths += [images, labels]
    unchecked = tuple(path for path in paths if not is_compressed(path))
    return array_source(arrays, num_classes=num_classes, files=tuple(paths), unchecked=unchecked)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read one IDX file of unsigned bytes.

    Args:
      path: the file, plain or compressed by gzip, bzip2 or xz; read to its end.
      axes: that the array must have.

    Returns:
      A uint8 array of the shape that the header states.

    Raises:
      DataError: if it is no such file, or its length disagrees with its header.
    """
    with naming(path), open_unpacked(path) as stream:
        header = stream.read(4 + 4 * axes)
        if header[:3] != _UNSIGNED_BYTES or len(header) < 4:
            raise DataError("is no IDX file of unsigned bytes")
        if header[3] != axes:
            raise DataError(f"has {header[3]} axes, must have {axes}")
        if len(header) < 4 + 4 * axes:
            raise DataError("is cut short in its header")
        shape = struct.unpack(f">{axes}I", header[4:])
        if math.prod(shape) > unpacked_limit(regular_size(path)):
            raise DataError(f"declares {math.prod(shape) >> 20} MiB, more than its size allows")
        data = read_all(stream, math.prod(shape))
        if len(data) < math.prod(shape):
            raise DataError(f"is cut short: shape {shape} but {len(data)} bytes")
        return np.frombuffer(data, np.uint8).reshape(shape)


def _find(files: Mapping[str, Path], name: str) -> Path:
    for suffix in ("", ".gz", ".bz2", ".xz"):
        if name + suffix in files:
            return files[name + suffix]
    raise DataError(f"no {name}[.gz] among {some(sorted(files))}")
