"""Write a `Source` as a prepared TFDS set (array_record files), without TensorFlow."""

import contextlib
import fcntl
import functools
import hashlib
import io
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from experiments.data.checks import DataError
from experiments.data.importing.downloads import FileReader, check_reachable, download
from experiments.data.importing.source import Features, Source, SourceSplit
from experiments.data.prepared import given_label_names
from experiments.data.seal import write_seal
from experiments.paths import own_file
from supjax.checks import listed

NEW_SET_VERSION = "1.0.0"  # Of the sets that TFDS does not know.
SHARD_BYTES = 128 << 20  # One shard at a time is held in memory.
_PROGRESS_DELAY = 0.2  # Seconds; what fails at once shows no progress.


def write_tfds(
    name: str, source: Source | FileReader, data_dir: str | Path, num_shards: int = 0
) -> Path:
    """Write the source as the prepared TFDS set `name`, so that `tfds.data_source` reads it.

    A set that TFDS knows is written under its version, with its features and in the order in
    which TFDS's own builder would write the same examples (by the MD5 hash of split and key), so
    that it makes no difference to a run whether a set was downloaded or imported.

    Args:
      name: the set's name in TFDS, or a new name.
      source: the examples, or how to read them from the original files, which TFDS downloads then.
      data_dir: TFDS's data directory.
      num_shards: files a split; 0 stands for one every 128 MiB.

    Returns:
      The folder of the prepared set.

    Raises:
      ValueError: if the set is already prepared, or the source's image shape, number of classes
        or class names are not those of the set.
      RuntimeError: if another process is preparing the same set, or a download fails.
    """
    with tqdm.tqdm(desc=name, unit=" images", delay=_PROGRESS_DELAY) as progress:
        build = _builder_class(name, source, num_shards, progress)
        return _prepare(build, data_dir, downloads=not isinstance(source, Source))


def prepare_with_tfds(name: str, data_dir: str | Path) -> Path:
    """Let TFDS's own builder download and prepare the set; most builders need TensorFlow.

    Args:
      name: the set's name in TFDS, with its configuration if it has several (`emnist/letters`).
      data_dir: TFDS's data directory.

    Returns:
      The folder of the prepared set.

    Raises:
      ValueError: if TFDS knows no such set, or it is already prepared.
      ImportError: if the builder needs a package that is missing.
      RuntimeError: if another process is preparing the same set, or there is no network.
    """
    import tensorflow_datasets as tfds

    def build(**kwargs: Any) -> Any:
        try:
            return tfds.builder(name, **kwargs)
        except tfds.core.DatasetNotFoundError as error:  # Its own message lists all of TFDS.
            raise ValueError("TensorFlow Datasets has no set of this name") from error

    return _prepare(build, data_dir, downloads=True)


def known_originals(name: str) -> Mapping[str, Any]:
    """Return TFDS's `url -> (size, checksum, filename)` of a set's original files, if any."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_cls(name).url_infos or {}
    except (tfds.core.DatasetNotFoundError, ValueError):
        return {}


def _prepare(build: Callable[..., Any], data_dir: str | Path, *, downloads: bool) -> Path:
    import tensorflow_datasets as tfds  # Slow to import, and not needed to read cached arrays.

    builder = build(data_dir=str(data_dir), file_format="array_record")
    folder = Path(builder.data_dir)
    if folder.exists():
        raise ValueError(f"{builder.name} is already prepared in {folder}; remove it to redo it")
    if downloads:
        check_reachable(builder.url_infos or ())
    with _only_writer(folder.parent), contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
        write_seal(folder)
    return folder


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold the set's lock, which ends with the process, and remove what killed runs left.

    TFDS writes into a folder `incomplete.*` and renames it at the end, so a set is whole or absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".prepare.lock", "ab", opener=own_file) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"another process is preparing {folder}") from error
        for leftover in folder.glob("incomplete.*"):
            shutil.rmtree(leftover)
        yield


def _builder_class(
    name: str, source: Source | FileReader, num_shards: int, progress: tqdm.tqdm
) -> type:
    """Return TFDS's builder of this name, or a plain one, that reads `source` instead."""
    import tensorflow_datasets as tfds

    def shard_iterators(builder: Any, manager: Any) -> Any:
        content = (
            source if isinstance(source, Source) else source(download(builder.url_infos, manager))
        )
        features = builder.info.features
        _check_fits(name, content, features)
        progress.total = sum(len(split.keys) for split in content.splits.values())
        return {
            split: _shards(split, examples, features, num_shards, progress)
            for split, examples in content.splits.items()
        }

    body: dict[str, Any] = {"name": name, "_shard_iterators_per_split": shard_iterators}
    bases: tuple[type, ...] = (tfds.core.ShardBasedBuilder,)
    try:
        known = tfds.builder_cls(name)
        bases += (known,)
        body["url_infos"] = known.url_infos  # Downloads are checked against TFDS's own hashes.
    except tfds.core.DatasetNotFoundError:
        if not isinstance(source, Source):
            raise
        body["VERSION"] = tfds.core.Version(NEW_SET_VERSION)
        body["_info"] = lambda builder: _new_info(builder, source)
    with tfds.core.registered.skip_registration():
        return type("Imported", bases, body)


def _new_info(builder: Any, source: Source) -> Any:
    import tensorflow_datasets as tfds

    label = (
        tfds.features.ClassLabel(names=source.label_names)
        if source.label_names
        else tfds.features.ClassLabel(num_classes=source.num_classes)
    )
    image = (
        tfds.features.Image(shape=source.image_shape)
        if source.image_shape
        else tfds.features.Image(encoding_format="jpeg")
    )
    return tfds.core.DatasetInfo(
        builder=builder,
        description="Imported from a local copy.",
        features=tfds.features.FeaturesDict({"image": image, "label": label}),
        supervised_keys=("image", "label"),
    )


def _check_fits(name: str, source: Source, features: Any) -> None:
    """Raise DataError where the set's features differ from the source's; set class names."""
    shape, label = tuple(features["image"].shape), features["label"]
    if source.image_shape and None not in shape and source.image_shape != shape:
        raise DataError(f"{name} has images of shape {shape}, the source {source.image_shape}")
    if source.num_classes > label.num_classes:
        raise DataError(f"{name} has {label.num_classes} classes, the source {source.num_classes}")
    names = source.label_names or ()
    if not given_label_names(label) and len(names) == label.num_classes:
        label.names = list(names)
    if unknown := set(names) - set(label.names):
        raise DataError(f"{name} has no classes named {listed(sorted(unknown), 5)}")


def _shards(
    split: str, examples: SourceSplit, features: Any, num_shards: int, progress: tqdm.tqdm
) -> list[Callable[[], Iterator[tuple[int | str, Features]]]]:
    """Return one generator of examples a shard, in the order of TFDS's hashed keys."""
    count = len(examples.keys)
    order = sorted(range(count), key=lambda index: _hash_key(split, examples.keys[index]))
    num_shards = num_shards or min(count, 1 + examples.num_bytes // SHARD_BYTES)
    bounds = [round(count * shard / num_shards) for shard in range(num_shards + 1)]

    def generate(start: int, stop: int) -> Iterator[tuple[int | str, Features]]:
        for index in order[start:stop]:
            yield examples.keys[index], _complete(examples.read(index), features)
            progress.update()

    return [functools.partial(generate, *bound) for bound in itertools.pairwise(bounds)]


def _hash_key(split: str, key: int | str) -> bytes:
    return hashlib.md5(f"{split}{key}".encode(), usedforsecurity=False).digest()


def _complete(example: Features, features: Any) -> Features:
    """Return the set's very features: the image encoded, what the source lacks as 'not given'."""
    image = example["image"]
    if isinstance(image, np.ndarray):
        image = _encode_png(image)
    complete = {
        name: example.get(name, -1 if hasattr(feature, "num_classes") else "")
        for name, feature in features.items()
    }
    return {**complete, "image": image}


def _encode_png(image: np.ndarray) -> bytes:
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(encoded, "PNG")
    return encoded.getvalue()
