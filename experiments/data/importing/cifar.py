"""The original CIFAR-10 and CIFAR-100 archives, in their binary and their python version."""

import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.importing.source import Source, array_source

_IMAGE_BYTES = 3 * 32 * 32
_CIFAR10 = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_CIFAR100 = {"train": ["train"], "test": ["test"]}


def read_cifar_archive(path: Path) -> Source:
    """Read `cifar-10-*.tar.gz` or `cifar-100-*.tar.gz`.

    Args:
      path: the archive; whether it is CIFAR-10 or CIFAR-100, in the binary or the python version,
        is seen from the file names inside.

    Returns:
      The source, in the archive's own order.

    Raises:
      ValueError: if the batch files of neither set are there, or one is damaged.
    """
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile()]
            contents = {
                Path(member.name).name: archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in members
            }
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is cut short or damaged: {error}") from error
    return read_cifar_files(contents)


def read_cifar_files(files: Mapping[str, bytes]) -> Source:
    """Read the batch files that a CIFAR archive unpacks to.

    Args:
      files: `file name -> content`; further files are ignored.

    Returns:
      The source, in the archive's own order.

    Raises:
      ValueError: if the batch files of neither set are there, or one is damaged.
    """
    for batches in (_CIFAR10, _CIFAR100):
        for suffix, parse in ((".bin", _parse_binary), ("", _parse_python)):
            names = [name + suffix for split in batches.values() for name in split]
            if all(name in files for name in names):
                coarse = batches is _CIFAR100
                return _assemble(
                    {
                        split: [parse(name, files[name + suffix], coarse) for name in members]
                        for split, members in batches.items()
                    },
                    _label_names(files, coarse),
                )
    raise ValueError(f"no complete CIFAR-10 or CIFAR-100 among {sorted(files)[:8]}")


def _parse_binary(name: str, data: bytes, coarse: bool) -> dict[str, np.ndarray]:
    header = 2 if coarse else 1
    if len(data) % (header + _IMAGE_BYTES):
        raise ValueError(f"{name} is cut short: {len(data)} bytes")
    rows = np.frombuffer(data, np.uint8).reshape(-1, header + _IMAGE_BYTES)
    batch = {"images": rows[:, header:], "labels": rows[:, header - 1]}
    return {**batch, "coarse_label": rows[:, 0]} if coarse else batch


def _parse_python(name: str, data: bytes, coarse: bool) -> dict[str, np.ndarray]:
    content = _unpickle(name, data)
    batch = {
        "images": np.asarray(content[b"data"], np.uint8),
        "labels": np.asarray(content[b"fine_labels" if coarse else b"labels"], np.uint8),
    }
    if coarse:
        batch["coarse_label"] = np.asarray(content[b"coarse_labels"], np.uint8)
    return batch


def _assemble(
    batches: Mapping[str, list[dict[str, np.ndarray]]], label_names: tuple[str, ...] | None
) -> Source:
    arrays, extra = {}, {}
    for split, parts in batches.items():
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        images = joined.pop("images").reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        arrays[split] = (np.ascontiguousarray(images), joined.pop("labels"))
        extra[split] = joined
    num_classes = 100 if "coarse_label" in extra["train"] else 10
    return array_source(arrays, num_classes=num_classes, label_names=label_names, extra=extra)


def _label_names(files: Mapping[str, bytes], coarse: bool) -> tuple[str, ...] | None:
    text = files.get("fine_label_names.txt" if coarse else "batches.meta.txt")
    if text is not None:
        return tuple(text.decode().split())
    pickled = files.get("meta" if coarse else "batches.meta")
    if pickled is None:
        return None
    names = _unpickle("meta", pickled)[b"fine_label_names" if coarse else b"label_names"]
    return tuple(name.decode() for name in names)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle NumPy arrays and plain containers and refuse everything else."""

    _ALLOWED = {  # noqa: RUF012  (never mutated)
        "_reconstruct": np.ndarray(0).__reduce__()[0],
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self._ALLOWED:
            return self._ALLOWED[name]
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"a CIFAR batch holds no {module}.{name}")


def _unpickle(name: str, data: bytes) -> dict[bytes, Any]:
    try:
        return _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{name} is no CIFAR batch: {error}") from error
