"""The embedded set: 1,797 real handwritten digits, 8x8 pixels, that come with scikit-learn."""

import numpy as np

from experiments.data.array_reading import WholeSet
from experiments.data.types import Split

_TEST_EVERY = 5
_PIXEL_MAX = 16.0


def load_digits() -> WholeSet:
    """Load the digits with a fixed test split.

    The j-th example of every class, in the order of the set, is a test example where j % 5 == 4:
    the same examples on every machine, and every class in proportion.

    Returns:
      `train` (1,442 examples) and `test` (355); uint8 images `[N, 8, 8, 1]`, 0..255 (the set
      counts 0..16), and int32 labels 0..9. From the copy of the UCI optical-digits set (Alpaydin
      and Kaynak, 1998) in scikit-learn.
    """
    from sklearn import datasets  # Slow to import, and not needed for the other sets.

    content = datasets.load_digits()
    images = np.rint(content.images * (255.0 / _PIXEL_MAX)).astype(np.uint8)[..., None]
    labels = content.target.astype(np.int32)
    rank = np.zeros(len(labels), np.int64)
    for label in range(10):
        rank[labels == label] = np.arange((labels == label).sum())
    test = rank % _TEST_EVERY == _TEST_EVERY - 1
    splits = {
        "train": Split(images[~test], labels[~test]),
        "test": Split(images[test], labels[test]),
    }
    return WholeSet(splits, 10, tuple("0123456789"))
