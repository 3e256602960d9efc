"""What an importer yields: splits of images with their TFDS features, read one at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.checks import (
    DataError,
    check_images,
    check_labels,
    check_names,
    check_num_classes,
    count_classes,
)
from supjax.checks import some

Features = dict[str, Any]
"""Features of one example; `image` is a uint8 array or encoded bytes, `label` an int or a name."""

CHANNELS = (1, 3, 4)
"""Channels that image files, and so prepared sets, can have."""


@dataclass(frozen=True)
class SourceSplit:
    """One split of a local copy.

    Attributes:
      keys: what TFDS hashes to shuffle the set; the stock builder's keys give its very order.
      read: `index -> features` of the example with that key.
      num_bytes: roughly what the split takes on disk; decides the number of shards.
    """

    keys: Sequence[int | str]
    read: Callable[[int], Features]
    num_bytes: int


@dataclass(frozen=True)
class Source:
    """A local copy of an image-classification set.

    Attributes:
      splits: by TFDS's split names (`train`, `test`, `validation`).
      image_shape: `(height, width, channels)`, or None where sizes differ from image to image.
      num_classes: labels are `0 ... num_classes - 1`.
      label_names: one name a class, or None; where there are names, they are the examples' labels.
      files: what it was read from, to be compared with the originals.
      unchecked: those that have no checksum of their own, so that damage to them may go unseen.
    """

    splits: Mapping[str, SourceSplit]
    image_shape: tuple[int, int, int] | None
    num_classes: int
    label_names: tuple[str, ...] | None = None
    files: tuple[Path, ...] = ()
    unchecked: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Check the classes.

        Raises:
          DataError: if there are too many, or they have not one name each.
        """
        check_num_classes(self.num_classes)
        if self.label_names is not None:
            check_names(self.label_names, self.num_classes)


def array_source(
    arrays: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    num_classes: int | None = None,
    label_names: Sequence[str] | None = None,
    extra: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    files: tuple[Path, ...] = (),
    unchecked: tuple[Path, ...] = (),
) -> Source:
    """Return the source over arrays that are already in memory.

    Args:
      arrays: `split -> (images, labels)`; uint8 images `[N, H, W]` or `[N, H, W, C]` and integer
        labels `[N]` or `[N, 1]`.
      num_classes: number of classes; if None and without names, the labels of `train` must be
        exactly `0 ... K - 1`.
      label_names: one name a class.
      extra: `split -> feature -> values [N]`, further features of every example.
      files: see `Source`.
      unchecked: see `Source`.

    Returns:
      The source, whose keys are the indices, as in TFDS's builders of CIFAR and MNIST.

    Raises:
      DataError: if a split is empty, or its images or labels have the wrong type, shape or range.

    >>> source = array_source({"train": (np.zeros((3, 4, 4), np.uint8), np.array([0, 1, 1]))})
    >>> source.image_shape, source.num_classes, source.splits["train"].read(1)["label"]
    ((4, 4, 1), 2, 1)
    """
    images = {name: _checked_images(name, pair[0]) for name, pair in arrays.items()}
    labels = {name: check_labels(name, pair[1], len(images[name])) for name, pair in arrays.items()}
    if num_classes is None:
        trained = {"train": labels["train"]} if "train" in labels else labels
        num_classes = len(label_names) if label_names else count_classes(trained.values())
    splits = {}
    for name in arrays:
        check_labels(name, labels[name], len(images[name]), num_classes)
        further = {
            key: _checked_values(f"{name}_{key}", values, len(images[name]))
            for key, values in (extra or {}).get(name, {}).items()
        }
        splits[name] = _array_split(name, images[name], labels[name], label_names, further)
    shapes = {values.shape[1:] for values in images.values()}
    if len(shapes) > 1:
        raise DataError(f"all splits must have one image shape, got {some(sorted(shapes))}")
    names = tuple(label_names) if label_names else None
    return Source(splits, shapes.pop(), num_classes, names, files, unchecked)


def _checked_images(split: str, images: np.ndarray) -> np.ndarray:
    """Return images that image files can hold."""
    images = check_images(split, images)
    if images.shape[-1] not in CHANNELS:
        hint = ""
        if images.shape[1] in CHANNELS:
            hint = "; they seem to be channels first: give np.moveaxis(images, 1, -1)"
        raise DataError(
            f"{split} images {images.shape} have {images.shape[-1]} channels, a prepared set can"
            f" have {some(CHANNELS)}{hint}"
        )
    return images


def _checked_values(name: str, values: np.ndarray, count: int) -> np.ndarray:
    if values.shape not in ((count,), (count, 1)) or values.dtype.kind not in "biufUS":
        raise DataError(
            f"{name} must be one value for each of {count} examples, got {values.dtype}"
            f" {values.shape}"
        )
    return values.reshape(count)


def _array_split(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    label_names: Sequence[str] | None,
    extra: Mapping[str, np.ndarray],
) -> SourceSplit:
    def read(index: int) -> Features:
        features: Features = {key: values[index].item() for key, values in extra.items()}
        features["id"] = f"{name}_{index:05d}"
        features["image"] = images[index]
        label = int(labels[index])
        features["label"] = label_names[label] if label_names else label
        return features

    return SourceSplit(range(len(images)), read, images.nbytes)
