"""Which files of a local copy are the originals that TFDS knows, and which cannot be told."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.data.importing.source import Source
from supjax.checks import some


def describe_copy(source: Source, originals: Mapping[str, Any]) -> list[str]:
    """Return what can be said about a local copy, a line for each kind of file.

    Args:
      source: the copy.
      originals: TFDS's `url -> (size, checksum, filename)` of the set, empty if it has none.

    >>> describe_copy(Source({}, None, 2, unchecked=(Path("photos"),)), {})
    ['not verified, for there is no checksum to compare (damage may go unseen): photos']
    """
    by_size: dict[int, set[str]] = {}
    for info in originals.values():
        by_size.setdefault(int(info.size), set()).add(info.checksum)
    names = {url.rpartition("/")[2] for url in originals}
    kinds: dict[str, list[Path]] = {}
    for path in {*source.files, *source.unchecked}:
        kinds.setdefault(_kind(path, source, by_size, names), []).append(path)
    return [f"{kind}: {some(sorted(paths), most=6)}" for kind, paths in sorted(kinds.items())]


def _kind(path: Path, source: Source, by_size: Mapping[int, set[str]], names: set[str]) -> str:
    if path.is_file() and path.stat().st_size in by_size:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest in by_size[path.stat().st_size]:
            return "verified, the original by TFDS's SHA-256"
    other = "another file than TFDS's original of that name" if path.name in names else ""
    if path in source.unchecked:
        return (
            f"not verified, {other or 'for there is no checksum to compare'} (damage may go unseen)"
        )
    return f"not verified, {other or 'for TFDS knows no hash of it'} (its own checksum is right)"
