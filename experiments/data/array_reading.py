"""Reading a prepared set whole, through TFDS the first time and from the cached arrays later."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data import array_cache
from experiments.data.checks import (
    DataError,
    check_images,
    check_labels,
    check_names,
    check_num_classes,
    naming,
)
from experiments.data.prepared import data_source, feature_names, given_label_names, open_prepared
from experiments.data.types import Split
from supjax.checks import some

_SPLITS = ("train", "validation", "test")


class WholeSet(NamedTuple):
    """All of a set, in memory.

    Attributes:
      splits: by TFDS's split names.
      num_classes: labels are `0 ... num_classes - 1`.
      label_names: one name a class, or empty.
    """

    splits: dict[str, Split]
    num_classes: int
    label_names: tuple[str, ...]


def read_whole(name: str, folder: Path) -> WholeSet:
    """Read a set whole; the arrays that this leaves beside it are read instead from then on.

    Args:
      name: the set's name, for messages.
      folder: of the prepared set, or of its cached arrays alone.

    Returns:
      Those of the splits `train`, `validation` and `test` that it has.

    Raises:
      DataError: if it is no image-classification set, is damaged, a split is empty, or images
        differ in size.
    """
    cached = array_cache.load(folder)
    if cached is None:
        cached = _read_with_tfds(name, folder)
        array_cache.save(folder, cached)
    with naming(folder):
        num_classes = check_num_classes(cached["num_classes"])
        names = tuple(str(label) for label in cached["label_names"].ravel())
        if names:
            check_names(names, num_classes)
        splits = {
            split: _checked(f"{name} {split}", split, cached, num_classes)
            for split in _SPLITS
            if f"{split}_images" in cached or f"{split}_labels" in cached
        }
        return WholeSet(splits, num_classes, names)


def _checked(title: str, split: str, arrays: Mapping[str, np.ndarray], num_classes: int) -> Split:
    """Return a split whose types, shapes and labels are those of an image-classification set."""
    if missing := {f"{split}_images", f"{split}_labels"} - set(arrays):
        raise DataError(f"lacks {some(missing)}")
    images = check_images(title, arrays[f"{split}_images"])
    labels = check_labels(title, arrays[f"{split}_labels"], len(images), num_classes)
    return Split(images, labels.astype(np.int32))


def _read_with_tfds(name: str, folder: Path) -> dict[str, np.ndarray]:
    builder = open_prepared(folder)
    image_key, label_key = feature_names(name, builder)
    label = builder.info.features[label_key]
    content = {
        "num_classes": np.array(label.num_classes),
        "label_names": np.array(given_label_names(label), dtype=str),
    }
    for split in _SPLITS:
        if split in builder.info.splits:
            content[f"{split}_images"], content[f"{split}_labels"] = _stack(
                f"{name} {split}", data_source(builder, split), image_key, label_key
            )
    return content


def _stack(title: str, source: Any, image_key: str, label_key: str) -> tuple[np.ndarray, ...]:
    from tqdm import trange

    if not len(source):
        raise DataError(f"{title} is empty")
    first = source[0][image_key]
    images = np.empty((len(source), *first.shape), first.dtype)
    labels = np.empty(len(source), np.int64)
    for index in trange(len(source), desc=f"reading {title}", unit=" images", leave=False):
        example = source[index]
        if example[image_key].shape != first.shape:
            raise DataError(
                f"{title}: image {index} has shape {example[image_key].shape}, the first"
                f" {first.shape}; a set with images of different sizes must be streamed"
            )
        images[index], labels[index] = example[image_key], example[label_key]
    return images, labels
