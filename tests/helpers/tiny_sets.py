"""Small images and arrays of them, for the tests of the data pipeline."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

NUM_TRAIN, NUM_TEST, NUM_CLASSES = 37, 11, 5


class Tiny(NamedTuple):
    """A prepared set and the arrays that it was made from."""

    name: str
    data_dir: Path
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def make_arrays(channels=3, size=6, seed=0):
    """Random images with labels; `(train, test)`."""
    rng = np.random.default_rng(seed)
    return tuple(
        (
            rng.integers(0, 256, (count, size, size, channels)).astype(np.uint8),
            rng.integers(0, NUM_CLASSES, count),
        )
        for count in (NUM_TRAIN, NUM_TEST)
    )


def as_rows(images, labels):
    """Examples in a form that can be compared whatever their order."""
    return sorted(
        (*image.ravel().tolist(), int(label)) for image, label in zip(images, labels, strict=True)
    )


def smooth_image(rng, height, width, channels=3):
    """A random image without the fine noise that JPEG cannot keep."""
    coarse = rng.integers(0, 256, (8, 8, channels)).astype(np.uint8)
    image = Image.fromarray(coarse[..., 0] if channels == 1 else coarse)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def encode(image, kind="JPEG", **options):
    """The bytes of an image file."""
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **({"quality": 90} if kind == "JPEG" else {}), **options)
    return file.getvalue()
