"""The original CIFAR-10 and CIFAR-100 archives, in their binary and their python version."""

import tarfile
from collections.abc import Callable, Collection, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from experiments.data.checks import DataError, naming
from experiments.data.files import Limited, is_compressed, open_unpacked, read_all, regular_size
from experiments.data.importing.cifar_pickle import unpickle
from experiments.data.importing.source import Source, array_source
from supjax.checks import some

_IMAGE_BYTES = 3 * 32 * 32
_COARSE_CLASSES = 20
_ARCHIVE_BYTES = 512 << 20  # Unpacked; the originals have 178 MiB.
_MEMBERS = 10_000
_HEADER_BYTES = 1 << 20  # Of a long name or an extended header.


class _Layout(NamedTuple):
    """Names of the files of a set, and `most`, bytes that a batch may have (originals: half)."""

    batches: dict[str, list[str]]
    meta: str
    text: str
    key: bytes
    most: int


_CIFAR10 = _Layout(
    {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    meta="batches.meta",
    text="batches.meta.txt",
    key=b"label_names",
    most=64 << 20,
)
_CIFAR100 = _Layout(
    {"train": ["train"], "test": ["test"]},
    meta="meta",
    text="fine_label_names.txt",
    key=b"fine_label_names",
    most=320 << 20,
)
_META_BYTES = 1 << 20


def _most_bytes() -> dict[str, int]:
    most: dict[str, int] = {}
    for layout in (_CIFAR10, _CIFAR100):
        most |= {layout.meta: _META_BYTES, layout.text: _META_BYTES}
        for name in chain.from_iterable(layout.batches.values()):
            most |= {name: layout.most, f"{name}.bin": layout.most}
    return most


_MOST_BYTES = _most_bytes()
"""`file name -> bytes that it may have`, of all files that are read."""


class _Member(tarfile.TarInfo):
    """A member whose headers are not read into memory where they declare to be huge."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        """Return the member of a header block."""
        member = super().frombuf(buf, encoding, errors)
        if not (member.isreg() or member.isdir()) and member.size > _HEADER_BYTES:
            raise DataError(f"declares a header of {member.size} bytes")
        return member


def read_cifar_archive(path: Path) -> Source:
    """Read `cifar-10-*.tar.gz` or `cifar-100-*.tar.gz`.

    Args:
      path: the archive; whether it is CIFAR-10 or CIFAR-100, in the binary or the python version,
        is seen from the file names inside. Other members are passed over. A compressed archive is
        read to its end, where its checksum is.

    Returns:
      The source, in the archive's own order.

    Raises:
      DataError: if the batch files of neither set are there, or one is damaged.
    """
    contents: dict[str, bytes] = {}
    seen = []
    with naming(path), open_unpacked(path) as stream:
        limited = Limited(stream, _ARCHIVE_BYTES)
        with tarfile.open(fileobj=limited, mode="r|", tarinfo=_Member) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                seen.append(name)
                archive.members.clear()  # type: ignore[attr-defined]  # Else it grows without end.
                if len(seen) > _MEMBERS:
                    raise DataError(f"it has more than {_MEMBERS} members")
                if not member.isfile() or name not in _MOST_BYTES:
                    continue
                if name in contents:
                    raise DataError(f"it has {name} twice")
                content: Any = archive.extractfile(member)
                with naming(name):
                    contents[name] = read_all(content, _MOST_BYTES[name])
        limited.drain()
        unchecked = () if is_compressed(path) else (path,)
        return read_cifar_files(contents, seen, files=(path,), unchecked=unchecked)


def read_cifar_folder(folder: Path, names: Collection[str]) -> Source:
    """Read a folder that a CIFAR archive unpacks to.

    Args:
      folder: the folder.
      names: of the files in it; others than CIFAR's are not opened.

    Returns:
      The source, in the archive's own order.

    Raises:
      DataError: if the batch files of neither set are there, or one is damaged.
    """
    contents = {}
    paths = [folder / name for name in sorted(names) if name in _MOST_BYTES]
    for path in paths:
        with naming(path):
            regular_size(path)
            with path.open("rb") as file:
                contents[path.name] = read_all(file, _MOST_BYTES[path.name])
    with naming(folder):
        return read_cifar_files(contents, sorted(names), files=tuple(paths), unchecked=tuple(paths))


def read_cifar_files(
    contents: Mapping[str, bytes], seen: Collection[str], **origin: tuple[Path, ...]
) -> Source:
    """Read the batch files that a CIFAR archive unpacks to.

    Args:
      contents: `file name -> content`.
      seen: names of all files, for the message.
      **origin: `files` and `unchecked` of the source.

    Returns:
      The source, in the archive's own order.

    Raises:
      DataError: if the batch files of neither set are there, or one is damaged.
    """
    for layout in (_CIFAR10, _CIFAR100):
        parsers: dict[str, Callable[..., Any]] = {".bin": _parse_binary, "": _parse_python}
        for suffix, parse in parsers.items():
            names = [name + suffix for split in layout.batches.values() for name in split]
            if all(name in contents for name in names):
                coarse = layout is _CIFAR100
                arrays, extra = {}, {}
                for split, members in layout.batches.items():
                    parts = []
                    for name in members:
                        with naming(name + suffix):
                            parts.append(parse(contents[name + suffix], coarse))
                    joined = {
                        key: np.concatenate([part[key] for part in parts]) for key in parts[0]
                    }
                    images = joined.pop("images").reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                    arrays[split] = (np.ascontiguousarray(images), joined.pop("labels"))
                    extra[split] = joined
                return array_source(
                    arrays,
                    num_classes=100 if coarse else 10,
                    label_names=_label_names(contents, layout),
                    extra=extra,
                    **origin,
                )
    raise DataError(f"no complete CIFAR-10 or CIFAR-100 among [{some(map(repr, seen))}]")


def _parse_binary(data: bytes, coarse: bool) -> dict[str, np.ndarray]:
    header = 2 if coarse else 1
    if not data or len(data) % (header + _IMAGE_BYTES):
        raise DataError(
            f"is cut short: {len(data)} bytes are no multiple of {header + _IMAGE_BYTES}"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, header + _IMAGE_BYTES)
    labels = {"labels": rows[:, header - 1]} | ({"coarse_label": rows[:, 0]} if coarse else {})
    return {"images": rows[:, header:], **_checked_labels(labels)}


def _parse_python(data: bytes, coarse: bool) -> dict[str, np.ndarray]:
    content = unpickle(data)
    keys = {"labels": b"fine_labels" if coarse else b"labels"}
    keys |= {"coarse_label": b"coarse_labels"} if coarse else {}
    if missing := {b"data", *keys.values()} - set(content):
        raise DataError(f"lacks {some(sorted(key.decode() for key in missing))}")
    images = content[b"data"]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2:
        raise DataError(f"data must be uint8 [N, {_IMAGE_BYTES}], got {_described(images)}")
    if images.shape[1] != _IMAGE_BYTES or not len(images):
        raise DataError(f"data must be uint8 [N, {_IMAGE_BYTES}], got {_described(images)}")
    labels = {name: _integers(key, content[key], len(images)) for name, key in keys.items()}
    return {"images": images, **_checked_labels(labels)}


def _integers(key: bytes, values: Any, count: int) -> np.ndarray:
    """Return labels as int64, whose types are looked at before they become an array."""
    if isinstance(values, np.ndarray):
        if values.shape == (count,) and values.dtype.kind in "iu":
            return values
    elif (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(type(value) is int and abs(value) < 1 << 31 for value in values)
    ):
        return np.array(values, np.int64)
    raise DataError(f"{key.decode()} must be {count} integers, got {_described(values)}")


def _checked_labels(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the labels as int64, if those of the coarse classes are in range."""
    coarse = labels.get("coarse_label")
    if coarse is not None and ((coarse < 0) | (coarse >= _COARSE_CLASSES)).any():
        raise DataError(f"has a coarse label outside 0..{_COARSE_CLASSES - 1}")
    return {name: values.astype(np.int64) for name, values in labels.items()}


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, list | tuple):
        kinds = sorted({type(item).__name__ for item in value[:100_000]})
        return f"{len(value)} values of type {some(kinds)}"
    return type(value).__name__


def _label_names(files: Mapping[str, bytes], layout: _Layout) -> tuple[str, ...] | None:
    if layout.text in files:
        with naming(layout.text):
            return tuple(files[layout.text].decode().split())
    if layout.meta not in files:
        return None
    with naming(layout.meta):
        names = unpickle(files[layout.meta]).get(layout.key)
        if not isinstance(names, list | tuple) or not all(
            isinstance(name, bytes | str) for name in names
        ):
            raise DataError(f"has no list of {layout.key.decode()}, got {_described(names)}")
        return tuple(name.decode() if isinstance(name, bytes) else name for name in names)
