"""`load_dataset`: any image set by name, ready for the training loop."""

from pathlib import Path

import numpy as np

from experiments.data import array_cache
from experiments.data.array_reading import WholeSet, read_whole
from experiments.data.arrays import ArrayDataset
from experiments.data.catalog import KNOWN_SETS, default_data_dir
from experiments.data.checks import naming
from experiments.data.digits import load_digits
from experiments.data.prepared import feature_names, find_prepared, open_prepared
from experiments.data.splitting import SplitRoles, divide, split_roles
from experiments.data.streaming import StreamedDataset
from experiments.data.types import Augmentation
from experiments.paths import local_path


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    validation_size: int | None = None,
    train_size: int | None = None,
    augmentation: Augmentation | None = None,
    streamed: bool | None = None,
    image_size: int = 224,
    on_corrupt: str = "skip",
) -> ArrayDataset | StreamedDataset:
    """Load an image-classification set.

    Args:
      name: `digits`, or the name of any image set in TFDS (`cifar10`, `emnist/letters`), or of one
        that `experiments.prepare_data --from=...` has written.
      data_dir: TFDS's data directory; `$TFDS_DATA_DIR` or TFDS's own default if None.
      validation_size: examples cut off the training split by a fixed permutation; if None, the
        set's own validation split where it has one beside a test split, else a tenth. 0 trains on
        all of them.
      train_size: examples to train on, of those that are left; all if None.
      augmentation: of an in-memory set's training images; if None, the catalogue's choice for a
        known set and none for others.
      streamed: whether images are read from disk as they are needed; if None, they are for
        ImageNet and for sets whose images differ in size.
      image_size: edge of a streamed set's images, in pixels.
      on_corrupt: what a streamed set does about an image that cannot be decoded, `skip` or `error`.

    Returns:
      The set, in memory or streamed.

    Raises:
      FileNotFoundError: if the set is not prepared, with the command that prepares it.
      ValueError: if there is no such set, or it or a size is unusable; `DataError` if its files are
        the cause.
    """
    place: str | Path = name
    if name == "digits":
        content = load_digits()
    else:
        directory = local_path(data_dir or default_data_dir(), "the data directory")
        folder = find_prepared(name, directory)
        if streamed if streamed is not None else _must_stream(name, folder):
            from experiments.data.opening import open_streamed  # Only here are decoders needed.

            return open_streamed(
                name,
                folder,
                validation_size=validation_size,
                train_size=train_size,
                image_size=image_size,
                on_corrupt=on_corrupt,
            )
        place, content = folder, read_whole(name, folder)
    with naming(place):
        roles = split_roles(name, content.splits, validation_size)
    return _in_memory(name, content, roles, validation_size, train_size, augmentation)


def _must_stream(name: str, folder: Path) -> bool:
    if name in KNOWN_SETS or (folder / array_cache.FILE_NAME).exists():
        return name in KNOWN_SETS and KNOWN_SETS[name].streamed
    builder = open_prepared(folder)
    image_key, _ = feature_names(name, builder)
    return None in builder.info.features[image_key].shape


def _in_memory(
    name: str,
    content: WholeSet,
    roles: SplitRoles,
    validation_size: int | None,
    train_size: int | None,
    augmentation: Augmentation | None,
) -> ArrayDataset:
    splits = content.splits
    test, train = splits[roles.test], splits["train"]
    kept, held_out = divide(train.size, 0 if roles.validation else validation_size, train_size)
    validation = splits[roles.validation] if roles.validation else train.take(held_out)
    train = train.take(kept)
    known = KNOWN_SETS.get(name)
    mean, std = (known.mean, known.std) if known else _statistics(train.images)
    return ArrayDataset(
        name=name,
        image_shape=train.images.shape[1:],
        num_classes=content.num_classes,
        mean=mean,
        std=std,
        sizes={"train": train.size, "validation": validation.size, "test": test.size},
        label_names=content.label_names,
        train=train,
        validation=validation,
        test=test,
        augmentation=augmentation or (known.augmentation if known else Augmentation()),
    )


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation per channel of pixels scaled to 0..1, from exact counts."""
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
        mean = float(share @ levels)
        means.append(mean)
        deviations.append(max(float(np.sqrt(share @ (levels - mean) ** 2)), 1 / 255))
    return tuple(means), tuple(deviations)
