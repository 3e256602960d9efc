"""Where to cut: torchvision's random-resized crop and its evaluation geometry, as plain numbers."""

import math
from typing import NamedTuple

import numpy as np

SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10


class Box(NamedTuple):
    """A rectangle of whole pixels.

    Attributes:
      top: its first row.
      left: its first column.
      height: rows.
      width: columns.
    """

    top: int
    left: int
    height: int
    width: int


def random_resized_box(rng: np.random.Generator, height: int, width: int) -> Box:
    """Draw the crop of torchvision's `RandomResizedCrop`.

    Area a ~ U(0.08, 1) * height * width and log ratio r ~ U(log 3/4, log 4/3) give a box of
    round(sqrt(a r)) columns and round(sqrt(a / r)) rows, placed uniformly; after 10 draws that do
    not fit, the largest centred box with a ratio inside the range.

    Args:
      rng: consumed.
      height: of the image, in pixels.
      width: of the image, in pixels.

    Returns:
      The box, inside the image.

    Reference: Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.

    >>> box = random_resized_box(np.random.default_rng(0), 375, 500)
    >>> 0 <= box.top <= 375 - box.height, 0 <= box.left <= 500 - box.width
    (True, True)
    """
    for _ in range(TRIES):
        area = height * width * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top = int(rng.integers(0, height - rows + 1))
            left = int(rng.integers(0, width - columns + 1))
            return Box(top, left, rows, columns)
    rows = min(height, max(1, round(width / RATIO[0])))
    columns = min(width, max(1, round(height * RATIO[1])))
    return centre_box(height, width, rows, columns)


def centre_box(height: int, width: int, rows: int, columns: int) -> Box:
    """Return the box of `rows` x `columns` pixels in the middle of an image.

    Args:
      height: of the image, in pixels.
      width: of the image, in pixels.
      rows: of the box.
      columns: of the box.

    Returns:
      The box.

    >>> centre_box(256, 341, 224, 224)
    Box(top=16, left=58, height=224, width=224)
    """
    return Box(round((height - rows) / 2), round((width - columns) / 2), rows, columns)


def shorter_side_size(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Return the size of an image that is scaled to a given shorter side.

    Args:
      height: of the image, in pixels.
      width: of the image, in pixels.
      shorter: length of the shorter side after scaling.

    Returns:
      `(height, width)` with the aspect ratio kept; the longer side is cut to whole pixels.

    >>> shorter_side_size(375, 500, 256)
    (256, 341)
    """
    scaled = shorter * max(height, width) // min(height, width)
    return (shorter, scaled) if height <= width else (scaled, shorter)
