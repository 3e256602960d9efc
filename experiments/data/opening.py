"""Open a prepared set for streaming."""

from pathlib import Path

import numpy as np

from experiments.data.catalog import KNOWN_SETS
from experiments.data.checks import naming
from experiments.data.decoding import SquareDecoder
from experiments.data.prepared import (
    data_source,
    feature_names,
    given_label_names,
    open_prepared,
    skip_decoding,
)
from experiments.data.splitting import divide, split_roles
from experiments.data.streaming import Examples, StreamedDataset


def open_streamed(
    name: str,
    folder: Path,
    *,
    validation_size: int | None = None,
    train_size: int | None = None,
    image_size: int = 224,
    on_corrupt: str = "skip",
) -> StreamedDataset:
    """Open a prepared set for streaming.

    Args:
      name: the set's name.
      folder: where it is prepared.
      validation_size: see `load_dataset`, as the others.
      train_size: examples to train on.
      image_size: edge of the images, in pixels.
      on_corrupt: `skip` or `error`.

    Returns:
      The set.

    Raises:
      ValueError: if it is no image-classification set, lacks a split, or a size is out of range.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be positive, got {image_size}")
    builder = open_prepared(folder)
    image_key, label_key = feature_names(name, builder)
    with naming(folder):
        roles = split_roles(name, builder.info.splits, validation_size)
    decoders = {image_key: skip_decoding()}

    def examples(split: str, index: np.ndarray | None = None) -> Examples:
        source = data_source(builder, split, decoders=decoders)
        everything = np.arange(len(source))
        return Examples(source, everything if index is None else index, image_key, label_key)

    count = builder.info.splits["train"].num_examples
    kept, held_out = divide(count, 0 if roles.validation else validation_size, train_size)
    splits = {
        "train": examples("train", kept),
        "validation": examples(roles.validation)
        if roles.validation
        else examples("train", held_out),
        "test": examples(roles.test),
    }
    label = builder.info.features[label_key]
    normalisation = KNOWN_SETS.get(name, KNOWN_SETS["imagenet2012"])
    return StreamedDataset(
        name=name,
        image_shape=(image_size, image_size, 3),
        num_classes=label.num_classes,
        mean=normalisation.mean,
        std=normalisation.std,
        sizes={split: len(content.index) for split, content in splits.items()},
        label_names=given_label_names(label),
        examples=splits,
        decoder=SquareDecoder(image_size),
        on_corrupt=on_corrupt,
    )
