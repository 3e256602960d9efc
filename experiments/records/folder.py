"""Text files that are either the old or the new ones, never half of each; one user of a folder."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from experiments.errors import RunError

CONFIG_FILE = "config.json"
"""What the folder of a run belongs to."""

SEED_PLACE = "{seed}"
"""Stands for the seed in the name of a folder that is given for several runs."""


def write_text(path: Path, text: str) -> Path:
    """Writes a text file in one piece: complete on disk before it takes its name.

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
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    return path


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Holds a file of a folder for this process; the claim ends with the process at the latest.

    Args:
      path: an existing file, which stays as it is.

    Raises:
      RunError: if another process holds it. File systems without locks are not guarded.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{path.parent} is in use by another process") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield
