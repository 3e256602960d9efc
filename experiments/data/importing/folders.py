"""Folders of image files, one folder a class: the layout in which ImageNet is usually unpacked."""

import io
import os
from pathlib import Path

from experiments.data.importing.source import Features, Source, SourceSplit

_SPLITS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
_SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".webp"}


def read_class_folders(folder: Path) -> Source:
    """List `train/<class>/*`, `val/<class>/*` and `test/<class>/*`; files are read when asked for.

    Args:
      folder: holds `train` and any of `val` (or `validation`) and `test`.

    Returns:
      The source. Classes are numbered in the sorted order of their folders' names; keys are file
      names, as in TFDS's builder of ImageNet. JPEG files are passed on byte for byte, except the
      few that are no RGB or greyscale JPEG (ImageNet has 22 in CMYK and a PNG), which are encoded
      anew.

    Raises:
      ValueError: if a split has no images or a class that `train` lacks.
    """
    names = sorted(entry.name for entry in (folder / "train").iterdir() if entry.is_dir())
    splits = {}
    for split, candidates in _SPLITS.items():
        for candidate in candidates:
            if (folder / candidate).is_dir():
                splits[split] = _list_split(folder / candidate, names)
    return Source(splits, None, len(names), tuple(names))


def _list_split(folder: Path, names: list[str]) -> SourceSplit:
    unknown = sorted({entry.name for entry in folder.iterdir() if entry.is_dir()} - set(names))
    if unknown:
        raise ValueError(f"{folder} has classes that train lacks: {unknown[:5]}")
    files, num_bytes = [], 0
    for name in names:
        if not (folder / name).is_dir():
            continue
        for entry in sorted(os.scandir(folder / name), key=lambda entry: entry.name):
            if os.path.splitext(entry.name)[1].lower() in _SUFFIXES:
                files.append((name, entry.name))
                num_bytes += entry.stat().st_size
    if not files:
        raise ValueError(f"{folder} holds no images in class folders")

    def read(index: int) -> Features:
        name, file_name = files[index]
        data = (folder / name / file_name).read_bytes()
        return {"image": as_plain_jpeg(data), "label": name, "file_name": file_name}

    keys = [file_name for _, file_name in files]
    if len(set(keys)) < len(keys):  # Elsewhere than in ImageNet, classes may reuse file names.
        keys = [f"{name}/{file_name}" for name, file_name in files]
    return SourceSplit(keys, read, num_bytes)


def as_plain_jpeg(data: bytes) -> bytes:
    """Return the bytes if they are an RGB or greyscale JPEG, else the image encoded as one."""
    from PIL import Image  # Only importing files of images needs Pillow.

    with Image.open(io.BytesIO(data)) as image:
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            return data
        encoded = io.BytesIO()
        image.convert("RGB").save(encoded, "JPEG", quality=95, subsampling=0)
    return encoded.getvalue()
