"""Prepared TFDS sets on disk: finding and opening them."""

import json
import re
from pathlib import Path
from typing import Any

from experiments.data import array_cache
from experiments.data.catalog import KNOWN_SETS, missing_message
from experiments.data.checks import (
    DataError,
    MissingPackageError,
    check_num_classes,
    naming,
)
from experiments.data.files import regular_size
from experiments.data.seal import DESCRIPTIONS, check_seal
from supjax.checks import KNOWN, some

INFO_FILE = "dataset_info.json"
_AGAIN = "remove the folder and prepare the set again"
_DESCRIPTION_BYTES = 16 << 20
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find_prepared(name: str, data_dir: Path) -> Path:
    """Return the folder of a set's newest version.

    Args:
      name: the set's name in TFDS, with its configuration if it has several (`emnist/letters`).
      data_dir: TFDS's data directory.

    Returns:
      The folder; it holds a prepared set or its cached arrays. Half-written sets are never there,
      for they are renamed into place when they are whole.

    Raises:
      FileNotFoundError: if the set is not prepared, with the command that prepares it.
      ValueError: if there is no such set.
    """
    for place in (data_dir / name, *_default_configuration(data_dir / name)):
        versions = [folder for folder in place.glob("*.*.*") if _is_prepared(folder)]
        if versions:
            return max(versions, key=lambda folder: [int(part) for part in folder.name.split(".")])
    if not _is_known(name):
        raise ValueError(
            f"unknown data set {name!r}; known are {some(sorted(KNOWN_SETS), KNOWN)}, every"
            f" image set of TensorFlow Datasets, and what is prepared in {data_dir}"
        )
    raise FileNotFoundError(missing_message(name, data_dir))


def open_prepared(folder: Path) -> Any:
    """Return TFDS's builder of the set in this folder; the import takes about a second.

    Raises:
      MissingPackageError: if TFDS is not installed.
      DataError: if the set's description is damaged.
    """
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"reading {folder} needs tensorflow_datasets (pip install 'supjax[experiments]');"
            f" without it only a set with {array_cache.FILE_NAME} can be read"
        ) from error
    with naming(folder, _AGAIN):
        for entry in folder.iterdir():
            if not entry.is_dir():
                with naming(entry.name, _AGAIN):
                    size = regular_size(entry)  # Opening a pipe would wait for ever.
                    if entry.suffix in DESCRIPTIONS and size > _DESCRIPTION_BYTES:
                        raise DataError(f"has more than {_DESCRIPTION_BYTES >> 20} MiB; {_AGAIN}")
        return tfds.builder_from_directory(str(folder))


def feature_names(name: str, builder: Any) -> tuple[str, str]:
    """Return the names of a set's image and label features.

    Raises:
      DataError: if it is no image-classification set.
    """
    with naming(builder.data_dir, _AGAIN):
        features = builder.info.features
        keys = builder.info.supervised_keys or ("image", "label")
        if len(keys) == 2 and all(key in features for key in keys):
            image, label = keys
            if hasattr(features[image], "encoding_format") and hasattr(
                features[label], "num_classes"
            ):
                check_num_classes(features[label].num_classes)
                return image, label
        raise DataError(f"{name} is no image-classification set: its features are {some(features)}")


def given_label_names(label: Any) -> tuple[str, ...]:
    """Return the class names of a label feature, or none where TFDS only counts the classes."""
    numbers = [str(index) for index in range(label.num_classes)]
    return () if list(label.names) == numbers else tuple(label.names)


class PreparedSplit:
    """Random access to the examples of a split; errors name its place.

    Attributes:
      source: TFDS's data source.
      place: folder and split, for messages.
    """

    def __init__(self, source: Any, place: str) -> None:
        self.source, self.place = source, place

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        with naming(f"{self.place}, example {index}", _AGAIN):
            return self.source[index]


def data_source(builder: Any, split: str, **kwargs: Any) -> PreparedSplit:
    """Return random access to a split's examples.

    Raises:
      DataError: if the set was prepared in a format without random access, a file of it is missing
        or damaged, or does not have the number of examples that the set's description says.
    """
    place = f"{builder.data_dir}, split {split}"
    with naming(place, _AGAIN):
        try:
            source = builder.as_data_source(split=split, **kwargs)
        except NotImplementedError as error:
            raise DataError(
                f"{builder.data_dir} is not in array_record format;"
                " prepare the set with experiments.prepare_data in another data_dir"
            ) from error
    with naming(builder.data_dir, _AGAIN):
        check_seal(Path(builder.data_dir))
    with naming(place, _AGAIN):
        from array_record.python.array_record_module import ArrayRecordReader

        for part in builder.info.splits[split].file_instructions:
            there = ArrayRecordReader(str(part.filename)).num_records()
            if there != part.examples_in_shard:
                raise DataError(
                    f"has {there} examples in {Path(part.filename).name}, but its description"
                    f" says {part.examples_in_shard}; {_AGAIN}"
                )
        return PreparedSplit(source, place)


def skip_decoding() -> Any:
    """Return TFDS's decoder that leaves an image as the bytes of its file."""
    import tensorflow_datasets as tfds

    return tfds.decode.SkipDecoding()


def _is_prepared(folder: Path) -> bool:
    return bool(_VERSION.fullmatch(folder.name)) and (
        (folder / INFO_FILE).exists() or (folder / array_cache.FILE_NAME).exists()
    )


def _default_configuration(folder: Path) -> list[Path]:
    """Return the folder of the configuration that TFDS takes when none is named, if any."""
    metadata = folder / ".config" / "metadata.json"
    if not metadata.exists():
        return []
    with naming(metadata, _AGAIN):
        if regular_size(metadata) > _DESCRIPTION_BYTES:
            raise DataError(f"has more than 16 MiB; {_AGAIN}")
        return [folder / json.loads(metadata.read_text())["default_config_name"]]


def _is_known(name: str) -> bool:
    if name in KNOWN_SETS:
        return True
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError:
        return False
    try:
        tfds.builder_cls(name.partition("/")[0])
    except (tfds.core.DatasetNotFoundError, ValueError):
        return False
    return True
