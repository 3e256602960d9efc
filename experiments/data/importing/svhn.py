"""The original files of SVHN's cropped digits: MATLAB arrays `[H, W, C, N]`, 0 labelled 10."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.checks import DataError, naming
from experiments.data.importing.mat import read_mat
from experiments.data.importing.source import Source, array_source
from supjax.checks import some

_SPLITS = ("train", "test", "extra")


def read_svhn_files(files: Mapping[str, Path]) -> Source:
    """Read `train_32x32.mat`, `test_32x32.mat` and, if it is there, `extra_32x32.mat`.

    Args:
      files: `file name -> path`; further files are ignored.

    Returns:
      The source, in the files' own order.

    Raises:
      DataError: if the training or test file is missing, or one is damaged.
    """
    arrays, paths, unchecked = {}, [], []
    for split in _SPLITS:
        name = f"{split}_32x32.mat"
        if name not in files:
            if split == "extra":
                continue
            raise DataError(f"no {name} among {some(sorted(files))}")
        path = files[name]
        with naming(path):
            content = read_mat(path, ("X", "y"))
            if missing := {"X", "y"} - set(content.arrays):
                raise DataError(f"lacks {some(sorted(missing))}; SVHN's files hold X and y")
            images, labels = content.arrays["X"], content.arrays["y"]
            if images.ndim != 4 or images.dtype != np.uint8:
                raise DataError(f"X must be uint8 [H, W, C, N], got {images.dtype} {images.shape}")
            images = np.ascontiguousarray(np.moveaxis(images, -1, 0))
            arrays[split] = (images, _digits(labels, len(images)))
        paths.append(path)
        unchecked += [] if content.checked else [path]
    return array_source(arrays, num_classes=10, files=tuple(paths), unchecked=tuple(unchecked))


def _digits(labels: np.ndarray, count: int) -> np.ndarray:
    """Return labels `[N]` of 0..9 from MATLAB's `[N, 1]` of 1..10; MATLAB counts in doubles."""
    if labels.size != count or labels.dtype.kind not in "iuf":
        raise DataError(f"y must be {count} numbers, got {labels.dtype} {labels.shape}")
    found = np.unique(labels)
    if not np.isin(found, np.arange(11)).all() or (found[0] == 0 and found[-1] == 10):
        raise DataError(f"y must be 1..10, where 10 is the digit 0; got {some(found)}")
    return labels.reshape(-1).astype(np.int64) % 10
