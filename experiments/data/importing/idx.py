"""The original files of MNIST and its relatives: the IDX format, plain or gzipped."""

import gzip
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.importing.source import Source, array_source

_SPLITS = {"train": "train", "test": "t10k"}
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx_files(files: Mapping[str, Path]) -> Source:
    """Read `{train,t10k}-{images-idx3,labels-idx1}-ubyte`, each plain or gzipped.

    Args:
      files: `file name -> path`; further files are ignored.

    Returns:
      The source, in the files' own order.

    Raises:
      ValueError: if a file is missing or damaged.
    """
    arrays = {}
    for split, prefix in _SPLITS.items():
        images = read_idx(_find(files, f"{prefix}-images-idx3-ubyte"))
        labels = read_idx(_find(files, f"{prefix}-labels-idx1-ubyte"))
        arrays[split] = (images, labels.astype(np.int64))
    return array_source(arrays)


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes.

    Args:
      path: the file, plain or gzipped.

    Returns:
      A uint8 array of the shape that the header states.

    Raises:
      ValueError: if it is no IDX file of bytes, or its length disagrees with its header.
    """
    data = path.read_bytes()
    if data.startswith(_GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is cut short or damaged: {error}") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is no IDX file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise ValueError(f"{path} is cut short: shape {shape} but {len(data) - start} bytes")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _find(files: Mapping[str, Path], name: str) -> Path:
    for candidate in (name, f"{name}.gz"):
        if candidate in files:
            return files[candidate]
    raise ValueError(f"no {name}[.gz] among {sorted(files)[:8]}")
