"""What becomes of an ImageNet image in training and in evaluation."""

from dataclasses import dataclass

import cv2
import numpy as np

from experiments.data import jpeg
from experiments.data.crops import random_resized_box

EVAL_RESIZE = 256 / 224
"""Shorter side of an image before its middle is cut out, per edge of the result."""


@dataclass(frozen=True)
class SquareDecoder:
    """Square images: a random-resized crop and a flip, or the middle of the whole.

    Attributes:
      size: edge of the results, in pixels.
    """

    size: int

    def __post_init__(self) -> None:
        cv2.setNumThreads(1)  # Images are decoded in parallel, not the parts of one.

    def train(self, data: bytes, rng: np.random.Generator) -> np.ndarray:
        """Return a random-resized crop (see `crops`), mirrored with probability 1/2.

        Args:
          data: the image file.
          rng: consumed.

        Raises:
          CorruptImageError: if the file cannot be decoded.
        """
        box = random_resized_box(rng, *jpeg.image_size(data))
        mirrored = rng.random() < 0.5
        image = jpeg.decode_crop(data, box, self.size)
        return cv2.flip(image, 1) if mirrored else image

    def evaluate(self, data: bytes) -> np.ndarray:
        """Return the middle of the image, scaled as published: 224 of a shorter side of 256.

        Args:
          data: the image file.

        Raises:
          CorruptImageError: if the file cannot be decoded.
        """
        return jpeg.decode_centre(data, round(self.size * EVAL_RESIZE), self.size)
