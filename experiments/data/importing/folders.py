"""Folders of image files, one folder a class: the layout in which ImageNet is usually unpacked."""

import io
import os
import stat
import warnings
from pathlib import Path

from experiments.data.checks import DataError, naming
from experiments.data.importing.source import Features, Source, SourceSplit
from supjax.checks import some

_SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
_SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".webp"}
_FILE_BYTES = 256 << 20
_DEEP = ("I", "F")  # Starts of Pillow's modes with more than 8 bits a channel.


def read_class_folders(folder: Path) -> Source:
    """List `train/<class>/*`, `val/<class>/*` and `test/<class>/*`; files are read when asked for.

    Args:
      folder: holds `train` and any of `val` (or `valid`, `validation`) and `test`. Names that start
        with a dot are passed over.

    Returns:
      The source. Classes are numbered in the sorted order of their folders' names; keys are file
      names, as in TFDS's builder of ImageNet. JPEG files are passed on byte for byte, except the
      few that are no RGB or greyscale JPEG (ImageNet has 22 in CMYK and a PNG), which are encoded
      anew.

    Raises:
      DataError: if a split or a class has no images, or a split a class that `train` lacks.
    """
    with naming(folder):
        names = _classes(folder / "train")
        splits = {}
        for split, candidates in _SPLITS.items():
            there = [name for name in candidates if (folder / name).is_dir()]
            if len(there) > 1:
                raise DataError(f"has {some(there)}, which mean the same: keep one")
            if there:
                splits[split] = _list_split(folder / there[0], names, complete=split == "train")
        return Source(splits, None, len(names), tuple(names), unchecked=(folder,))


def _classes(folder: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _list_split(folder: Path, names: list[str], *, complete: bool) -> SourceSplit:
    unknown = sorted(set(_classes(folder)) - set(names))
    if unknown:
        shown = [str(name) for name in unknown[:5]]
        raise DataError(f"{folder.name} has classes that train lacks: {shown}")
    files: list[tuple[str, str]] = []
    num_bytes, empty = 0, []
    for name in names:
        before = len(files)
        entries = sorted((folder / name).iterdir()) if (folder / name).is_dir() else []
        for entry in entries:
            if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith("."):
                files.append((name, entry.name))
                num_bytes += _image_bytes(entry)
        if len(files) == before:
            empty.append(name)
    if not files:
        raise DataError(f"{folder.name} holds no images in class folders")
    if empty and complete:
        raise DataError(
            f"{folder.name} has classes without images ({some(sorted(_SUFFIXES))}):"
            f" {some(empty)}; remove their folders"
        )

    def read(index: int) -> Features:
        name, file_name = files[index]
        path = folder / name / file_name
        with naming(path, advice="replace or remove it"):
            image = as_plain_jpeg(path.read_bytes())
        return {"image": image, "label": name, "file_name": file_name}

    keys = [file_name for _, file_name in files]
    if len(set(keys)) < len(keys):  # Elsewhere than in ImageNet, classes may reuse file names.
        keys = [f"{name}/{file_name}" for name, file_name in files]
    return SourceSplit(keys, read, num_bytes)


def _image_bytes(path: Path) -> int:
    """Return the size of an image file, which must be a regular one."""
    with naming(path, advice="replace or remove it"):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _FILE_BYTES:
            raise DataError(f"is no regular file of at most {_FILE_BYTES >> 20} MiB; remove it")
    return status.st_size


def as_plain_jpeg(data: bytes) -> bytes:
    """Return the bytes if they are an RGB or greyscale JPEG, else the image encoded as one.

    Args:
      data: an image file; the checksums of a PNG are compared.

    Raises:
      DataError: if it is no image file, or one with more than 8 bits a channel.
    """
    from PIL import Image, UnidentifiedImageError  # Only importing files of images needs Pillow.

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.format == "JPEG" and image.mode in ("RGB", "L"):
                    return data
                if image.mode.startswith(_DEEP):
                    raise DataError(
                        f"has more than 8 bits a channel ({image.mode}); save it with 8"
                    )
                if image.format == "PNG":
                    image.verify()  # After which the file must be opened anew.
            with Image.open(io.BytesIO(data)) as image:
                encoded = io.BytesIO()
                image.convert("RGB").save(encoded, "JPEG", quality=95, subsampling=0)
        except UnidentifiedImageError as error:
            raise DataError("is no image file; replace or remove it") from error
    return encoded.getvalue()
