"""Folders of image files, one folder a class: the layout in which ImageNet is usually unpacked."""

import io
from pathlib import Path

from experiments.data.importing.source import Features, Source, SourceSplit

_SPLITS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
_SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".webp"}


def read_class_folders(folder: Path) -> Source:
    """Lists `train/<class>/*`, `val/<class>/*` and `test/<class>/*`; files are read when asked for.

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
    files = [
        file
        for name in names
        if (folder / name).is_dir()
        for file in sorted((folder / name).iterdir())
        if file.suffix.lower() in _SUFFIXES
    ]
    if not files:
        raise ValueError(f"{folder} holds no images in class folders")

    def read(index: int) -> Features:
        file = files[index]
        return {
            "image": as_plain_jpeg(file.read_bytes()),
            "label": file.parent.name,
            "file_name": file.name,
        }

    keys = [file.name for file in files]
    if len(set(keys)) < len(keys):  # Elsewhere than in ImageNet, classes may reuse file names.
        keys = [f"{file.parent.name}/{file.name}" for file in files]
    return SourceSplit(keys, read, sum(file.stat().st_size for file in files))


def as_plain_jpeg(data: bytes) -> bytes:
    """Returns the bytes if they are an RGB or greyscale JPEG, else the image encoded as one."""
    from PIL import Image  # Only importing files of images needs Pillow.

    with Image.open(io.BytesIO(data)) as image:
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            return data
        encoded = io.BytesIO()
        image.convert("RGB").save(encoded, "JPEG", quality=95, subsampling=0)
    return encoded.getvalue()
