"""What an importer yields: splits of images with their TFDS features, read one at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.data.checks import check_images, check_labels

Features = dict[str, Any]
"""Features of one example; `image` is a uint8 array or encoded bytes, `label` an int or a name."""


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
    """

    splits: Mapping[str, SourceSplit]
    image_shape: tuple[int, int, int] | None
    num_classes: int
    label_names: tuple[str, ...] | None = None


def array_source(
    arrays: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    num_classes: int | None = None,
    label_names: Sequence[str] | None = None,
    extra: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Source:
    """Return the source over arrays that are already in memory.

    Args:
      arrays: `split -> (images, labels)`; uint8 images `[N, H, W]` or `[N, H, W, C]` and integer
        labels `[N]`.
      num_classes: number of classes; the largest label plus 1 by default.
      label_names: one name a class.
      extra: `split -> feature -> values [N]`, further features of every example.

    Returns:
      The source, whose keys are the indices, as in TFDS's builders of CIFAR and MNIST.

    Raises:
      ValueError: if a split is empty, or its images or labels have the wrong type, shape or range.

    >>> source = array_source({"train": (np.zeros((3, 4, 4), np.uint8), np.array([0, 1, 1]))})
    >>> source.image_shape, source.num_classes, source.splits["train"].read(1)["label"]
    ((4, 4, 1), 2, 1)
    """
    if num_classes is None:
        num_classes = (
            len(label_names)
            if label_names
            else 1 + max(int(labels.max(initial=0)) for _, labels in arrays.values())
        )
    splits, shapes = {}, set()
    for name, (images, labels) in arrays.items():
        images = check_images(name, images)
        check_labels(name, labels, len(images), num_classes)
        shapes.add(images.shape[1:])
        splits[name] = _array_split(name, images, labels, label_names, (extra or {}).get(name, {}))
    if len(shapes) > 1:
        raise ValueError(f"all splits must have one image shape, got {sorted(shapes)}")
    return Source(splits, shapes.pop(), num_classes, tuple(label_names) if label_names else None)


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
