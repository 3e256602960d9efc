"""Which examples are for training, which to choose by, and which for the result."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from experiments.data.catalog import KNOWN_SETS
from experiments.data.checks import DataError
from supjax.checks import listed

VALIDATION_SHARE = 10
_SEED = 2205  # Fixed: all runs choose by the same examples, whatever their own seed.


class SplitRoles(NamedTuple):
    """What the splits of a TFDS set are used for, beside `train`.

    Attributes:
      test: the split for the result.
      validation: the split to choose by, or None if that is cut off `train`.
    """

    test: str
    validation: str | None


def split_roles(name: str, available: Collection[str], validation_size: int | None) -> SplitRoles:
    """Return what the splits of a set are used for.

    Sets whose only labelled evaluation examples are called `validation`, as those of ImageNet, are
    tested on them.

    Args:
      name: the set's name in TFDS.
      available: its splits.
      validation_size: examples that are to be cut off `train`, or None for the set's own choice.

    Returns:
      The roles.

    Raises:
      DataError: if there is nothing to train on or nothing to test on.

    >>> split_roles("imagenet2012", ["train", "validation", "test"], None)
    SplitRoles(test='validation', validation=None)
    """
    if name in KNOWN_SETS:
        test = KNOWN_SETS[name].test_split
    else:
        test = "test" if "test" in available else "validation"
    if "train" not in available or test not in available:
        raise DataError(
            f"{name} needs a train and a {test} split, it has {listed(sorted(available))}"
        )
    own = validation_size is None and test != "validation" and "validation" in available
    return SplitRoles(test, "validation" if own else None)


def divide(
    count: int, validation_size: int | None = None, train_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the examples `0 ... count - 1` by one fixed permutation.

    Args:
      count: examples of the training split.
      validation_size: examples held out; a tenth if None.
      train_size: examples to train on, of the others; all if None.

    Returns:
      Indices to train on and indices held out, each in ascending order. More held-out examples
      include those of a smaller number, and likewise for training.

    Raises:
      ValueError: if a size is out of range.

    >>> train, validation = divide(50000, 5000)
    >>> len(train), len(validation), len(set(train) & set(validation))
    (45000, 5000, 0)
    """
    if validation_size is None:
        validation_size = count // VALIDATION_SHARE
    if not 0 <= validation_size < count:
        raise ValueError(
            f"validation_size must be between 0 and {count - 1}, got {validation_size}"
        )
    left = count - validation_size
    if train_size is None:
        train_size = left
    if not 1 <= train_size <= left:
        raise ValueError(f"train_size must be between 1 and {left}, got {train_size}")
    # RandomState's stream is frozen for good (NumPy's NEP 19), that of default_rng is not.
    order = np.random.RandomState(_SEED).permutation(count)
    held_out, rest = order[:validation_size], order[count - train_size :]
    return np.sort(rest), np.sort(held_out)
