"""Refusing images and arrays that cannot be used, with one line that says why."""

import numpy as np


class CorruptImageError(ValueError):
    """An image file that cannot be decoded, or not to its end."""


def check_images(split: str, images: np.ndarray) -> np.ndarray:
    """Return the images with a channel axis.

    Args:
      split: its name, for the message.
      images: uint8 `[N, H, W]` or `[N, H, W, C]`, any number of channels.

    Returns:
      The images, `[N, H, W, C]`.

    Raises:
      ValueError: if they are anything else, or there are none.

    >>> check_images("train", np.zeros((2, 8, 8), np.uint8)).shape
    (2, 8, 8, 1)
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{split} images must be uint8 of shape [N, H, W] or [N, H, W, C],"
            f" got {images.dtype} {images.shape}"
        )
    if len(images) == 0:
        raise ValueError(f"split {split!r} is empty")
    return images if images.ndim == 4 else images[..., None]


def check_labels(split: str, labels: np.ndarray, count: int, num_classes: int) -> None:
    """Check that there is one label in range for every image.

    Args:
      split: its name, for the message.
      labels: integers `[N]`.
      count: the number of images.
      num_classes: labels are `0 ... num_classes - 1`.

    Raises:
      ValueError: if the labels have another type, number or range.
    """
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{split} labels must be {count} integers, got {labels.dtype} {labels.shape}"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        raise ValueError(
            f"{split} label {int(labels[outside[0]])} of example {int(outside[0])}"
            f" is outside 0..{num_classes - 1}"
        )
