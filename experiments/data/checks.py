"""Refusing files and arrays that cannot be used, in one line: which, why, and what to do."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

from experiments.errors import RunError, one_line
from supjax.checks import some

MAX_CLASSES = 100_000
"""More classes than any image set has; a larger number is a mistake or an attack on memory."""

_VERBS = {"cannot", "declares", "does", "has", "holds", "is", "lacks", "must", "needs"}
_NAME = 100  # Characters of a class name at most.


class DataError(RunError, ValueError):
    """A file or an array that cannot be used; one line that names it and says what to do."""


class MissingPackageError(RunError, ModuleNotFoundError):
    """A package that this set needs and that is not installed; one line that says which."""

    exit_code = 2


class CorruptImageError(ValueError):
    """An image file that cannot be decoded, or not to its end."""


@contextlib.contextmanager
def naming(what: object, advice: str = "get it again") -> Iterator[None]:
    """Put the name of a file or a member before every error about it.

    Whatever a library raises becomes a `DataError`: damaged files make them raise almost anything.

    Args:
      what: the file or the member.
      advice: what to do when a library cannot read it.

    Raises:
      DataError: for every exception but `MissingPackageError`; in one line.

    >>> with naming("a.npz"), naming("x"):
    ...     raise EOFError
    Traceback (most recent call last):
      ...
    experiments.data.checks.DataError: a.npz: x is cut short or damaged (EOFError); get it again
    """
    try:
        yield
    except MissingPackageError:
        raise
    except Exception as error:
        reason = _reason(error) or f"is cut short or damaged ({one_line(error)[:200]}); {advice}"
        if not reason.startswith(str(what)):  # Else a reader further inside has named it.
            reason = f"{what}{' ' if reason.split()[0] in _VERBS else ': '}{reason}"
        raise DataError(one_line(reason)) from error


def _reason(error: Exception) -> str | None:
    """Return what an exception says for itself, None if it is a library's about damaged data."""
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, ImportError):
        return f"needs the package {error.name}, which is not installed"
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return None


def check_images(split: str, images: np.ndarray) -> np.ndarray:
    """Return the images with a channel axis.

    Args:
      split: its name, for the message.
      images: uint8 `[N, H, W]` or `[N, H, W, C]`, any number of channels.

    Returns:
      The images, `[N, H, W, C]`.

    Raises:
      DataError: if they are anything else, or there are none.

    >>> check_images("train", np.zeros((2, 8, 8), np.uint8)).shape
    (2, 8, 8, 1)
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"{split} images must be uint8 of shape [N, H, W] or [N, H, W, C],"
            f" got {images.dtype} {images.shape}"
        )
    if len(images) == 0:
        raise DataError(f"split {split!r} is empty")
    if images.size == 0:
        raise DataError(f"{split} images have no pixels, their shape is {images.shape}")
    return images if images.ndim == 4 else images[..., None]


def check_labels(
    split: str, labels: np.ndarray, count: int, num_classes: int | None = None
) -> np.ndarray:
    """Return the labels as `[N]`, if there is one in range for every image.

    Args:
      split: its name, for the message.
      labels: integers `[N]` or `[N, 1]`.
      count: the number of images.
      num_classes: labels are `0 ... num_classes - 1`; None leaves the range for later.

    Returns:
      The labels, of their own type.

    Raises:
      DataError: if the labels have another type, number or range.

    >>> check_labels("train", np.array([[1], [0]]), 2, 2)
    array([1, 0])
    """
    if labels.dtype.kind in "USO":
        raise DataError(
            f"{split} labels are text; give numbers, and the names as label_names"
            " (names, labels = np.unique(labels, return_inverse=True))"
        )
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{split} labels must be {count} integers, got {labels.dtype} {labels.shape}"
        )
    if num_classes is not None:
        outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
        if outside.size:
            from_one = labels.min() == 1 and labels.max() == num_classes
            raise DataError(
                f"{split} label {int(labels[outside[0]])} of example {int(outside[0])}"
                f" is outside 0..{num_classes - 1}"
                + ("; labels start at 1: subtract 1 from all" if from_one else "")
            )
    return labels


def count_classes(labels: Iterable[np.ndarray]) -> int:
    """Return the number of classes of labels that are exactly `0 ... K - 1`.

    Args:
      labels: integers `[N]` of every split.

    Raises:
      DataError: if a number between is missing, for then nobody knows what was meant.

    >>> count_classes([np.array([0, 2]), np.array([1])])
    3
    """
    found = sorted(set(chain.from_iterable(np.unique(values).tolist() for values in labels)))
    if found == list(range(len(found))):
        return check_num_classes(len(found))
    if found == list(range(1, len(found) + 1)):
        problem, remedy = f"labels run from 1 to {found[-1]}", "subtract 1 from all"
    else:
        problem = f"labels have the {len(found)} values {some(found, most=4)}"
        remedy = f"number the classes 0..{len(found) - 1} (np.unique(labels, return_inverse=True))"
    known = f", or give num_classes={found[-1] + 1} in the .npz if others have no examples"
    raise DataError(f"{problem}, not 0..K-1; {remedy}{known if found[0] >= 0 else ''}")


def check_num_classes(number: object) -> int:
    """Return a number of classes as an int.

    Raises:
      DataError: if it is no integer from 1 to `MAX_CLASSES`.

    >>> check_num_classes(np.array(10))
    10
    """
    values = np.asarray(number)
    if values.size != 1 or values.dtype.kind not in "iu" or not 1 <= values.item() <= MAX_CLASSES:
        shown = number if values.size == 1 else f"an array of shape {values.shape}"
        raise DataError(f"num_classes must be an integer from 1 to {MAX_CLASSES}, got {shown}")
    return int(values.item())


def check_names(names: Sequence[str], num_classes: int) -> None:
    """Check that there is one printable name of its own for every class.

    Raises:
      DataError: naming the one that is not.
    """
    if len(names) != num_classes:
        raise DataError(f"there are {len(names)} class names for {num_classes} classes")
    for name in names:
        if not name.strip() or not name.isprintable() or len(name) > _NAME:
            raise DataError(
                f"class names must be 1 to {_NAME} printable characters, got {name[:_NAME]!r}"
            )
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"class names must differ, but twice there is {some(twice, most=3)}")
