"""Files and folders of this machine, for what a person types."""

import os
import re
import shutil
from pathlib import Path

from experiments.errors import ConfigError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""Start of an address; `Path` leaves one of its two slashes. A single letter is a drive."""


def is_address(text: str) -> bool:
    """Say whether a text is an address of another machine, such as a bucket's.

    >>> [is_address(text) for text in ("gs://bucket/run", "s3:/bucket", "runs/a:b", "C:/runs")]
    [True, True, False, False]
    """
    return _ADDRESS.match(text) is not None


def local_path(given: str | Path, what: str) -> Path:
    """Return a path, but refuse an address, which would silently become a folder of that name.

    Runs need locks, renames in one piece and files that are on disk when a call returns; buckets
    give none of them.

    Args:
      given: what was typed; `~` stands for the home folder.
      what: it is, for the message.

    Raises:
      ConfigError: if it is an address.

    >>> local_path("runs/digits", "the workdir").as_posix()
    'runs/digits'
    >>> local_path("gs://bucket/run", "the workdir")
    Traceback (most recent call last):
      ...
    experiments.errors.ConfigError: the workdir must be on this machine, got gs://bucket/run; ...
    """
    if is_address(str(given)):
        shown = str(given) if "://" in str(given) else str(given).replace(":/", "://", 1)
        raise ConfigError(
            f"{what} must be on this machine, got {shown}; work on a local path and copy, or mount"
        )
    return Path(given).expanduser()


def remove(path: Path) -> None:
    """Remove a file, a link (never what it leads to) or a folder; what cannot be removed stays."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return


def own_file(name: str, flags: int) -> int:
    """Open a file, unless its name is a link; an opener for `open`.

    Raises:
      OSError: as `open`, and for a link.
    """
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)
