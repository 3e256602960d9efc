"""The original files of SVHN's cropped digits: MATLAB arrays `[H, W, C, N]`, 0 labelled 10."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.importing.source import Source, array_source

_SPLITS = ("train", "test", "extra")


def read_svhn_files(files: Mapping[str, Path]) -> Source:
    """Read `train_32x32.mat`, `test_32x32.mat` and, if it is there, `extra_32x32.mat`.

    Args:
      files: `file name -> path`; further files are ignored.

    Returns:
      The source, in the files' own order.

    Raises:
      ValueError: if the training or test file is missing.
    """
    import scipy.io  # Comes with scikit-learn; only this importer needs it.

    arrays = {}
    for split in _SPLITS:
        name = f"{split}_32x32.mat"
        if name not in files:
            if split == "extra":
                continue
            raise ValueError(f"no {name} among {sorted(files)[:8]}")
        content = scipy.io.loadmat(files[name])
        images = np.ascontiguousarray(np.moveaxis(content["X"], -1, 0))
        arrays[split] = (images, content["y"].reshape(-1).astype(np.int64) % 10)
    return array_source(arrays, num_classes=10)
