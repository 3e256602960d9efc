"""Ways to make a 224-pixel training image of a JPEG file, for `benchmarks.input_pipeline`."""

import functools
import importlib.util
import io
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from experiments.data.crops import Box
from experiments.data.jpeg import decode_crop

OURS, BASE = "supjax", "Pillow"

Run = Callable[[], list[Any]]
"""Makes all images, one after the other."""


def supjax_images(files: Sequence[bytes], boxes: Sequence[Box], size: int) -> list[np.ndarray]:
    """The rows that are needed, scaled with the filter of `experiments.data.jpeg`."""
    return [decode_crop(data, box, size) for data, box in zip(files, boxes, strict=True)]


def pillow_images(files: Sequence[bytes], boxes: Sequence[Box], size: int) -> list[np.ndarray]:
    """What torchvision does with Pillow: decode all, crop, resize bilinearly with antialiasing."""
    return [pillow_image(data, box, size) for data, box in zip(files, boxes, strict=True)]


def pillow_image(data: bytes, box: Box, size: int) -> np.ndarray:
    """One image with Pillow."""
    top, left, height, width = box
    image = Image.open(io.BytesIO(data)).convert("RGB")
    part = image.crop((left, top, left + width, top + height))
    return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))


def pillow_draft_images(
    files: Sequence[bytes], boxes: Sequence[Box], size: int
) -> list[np.ndarray]:
    """Pillow with the reduced decoding of its draft mode."""
    images = []
    for data, (top, left, height, width) in zip(files, boxes, strict=True):
        image = Image.open(io.BytesIO(data))
        full = image.size
        factor = min(height, width) / size
        image.draft("RGB", (max(1, int(full[0] / factor)), max(1, int(full[1] / factor))))
        rgb = image.convert("RGB")
        scale = rgb.width / full[0]
        scaled = (
            left * scale,
            top * scale,
            min((left + width) * scale, rgb.width),
            min((top + height) * scale, rgb.height),
        )
        images.append(np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR, box=scaled)))
    return images


def opencv_images(files: Sequence[bytes], boxes: Sequence[Box], size: int) -> list[np.ndarray]:
    """OpenCV: decode all, cut, bilinear interpolation, which aliases where it shrinks."""
    images = []
    for data, (top, left, height, width) in zip(files, boxes, strict=True):
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        part = image[top : top + height, left : left + width]
        images.append(cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR))
    return images


def tf_data_images(files: Sequence[bytes], boxes: Sequence[Box], size: int) -> Run:
    """tf.data on one thread: decode and crop in one operation, bilinear without antialiasing."""
    import tensorflow as tf  # Only measured where it happens to be installed.

    def decode(data: Any, box: Any) -> Any:
        image = tf.image.decode_and_crop_jpeg(data, box, channels=3)
        image = tf.image.resize(image, (size, size))
        return tf.cast(tf.round(image), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    content = tf.data.Dataset.from_tensor_slices((list(files), np.asarray(boxes, np.int32)))
    images = content.map(decode).with_options(options)
    return lambda: list(images.as_numpy_iterator())


def prepare(files: Sequence[bytes], boxes: Sequence[Box], size: int) -> dict[str, Run]:
    """Returns the contenders that can be run here.

    Args:
      files: JPEG files.
      boxes: the part of each that is wanted.
      size: edge of the images, in pixels.

    Returns:
      name -> function that makes all images.
    """
    direct = {
        OURS: supjax_images,
        BASE: pillow_images,
        "Pillow draft": pillow_draft_images,
        "OpenCV": opencv_images,
    }
    contenders: dict[str, Run] = {
        name: functools.partial(make, files, boxes, size) for name, make in direct.items()
    }
    if importlib.util.find_spec("tensorflow") is not None:
        contenders["tf.data"] = tf_data_images(files, boxes, size)
    return contenders
