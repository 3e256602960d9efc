"""Text files that are either the old or the new ones, never half of each."""

import contextlib
import os
from pathlib import Path


def write_text(path: Path, text: str) -> Path:
    """Write a text file in one piece: complete on disk before it takes its name.

    Args:
      path: where to write; its folder is made if it is missing.
      text: the whole content, written as UTF-8.

    Returns:
      The path.

    Raises:
      OSError: if the file cannot be written; an older file of that name is then still whole.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # of a killed process; never followed if it is a link
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    return path
