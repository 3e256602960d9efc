"""The arrays of a prepared set in one file beside it, so that they are decoded only once.

The file is a plain `.npz` that also works alone: a machine without TensorFlow Datasets needs
nothing but `<data_dir>/<set>/<version>/arrays.npz`, and `prepare_data --from=arrays.npz` takes it.
"""

import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.checks import DataError, naming
from experiments.data.npz_file import read_arrays
from supjax.checks import some

FILE_NAME = "arrays.npz"
_ALWAYS = {"num_classes", "label_names"}
_TEMPORARY_PREFIX = ".arrays-"
_ABANDONED = 3600.0  # Seconds after which a half-written file belongs to no living process.


def load(folder: Path) -> dict[str, np.ndarray] | None:
    """Read the cached arrays of the prepared set in `folder`.

    Args:
      folder: `<data_dir>/<set>/<version>`.

    Returns:
      The arrays, or None if there are none, or the prepared set beside them is another one than
      they were read from (its files are hashed), or they are damaged and can be made anew of it.

    Raises:
      DataError: if the arrays are damaged and there is no prepared set beside them.
    """
    path = folder / FILE_NAME
    if not path.exists() and not path.is_symlink():
        return None
    fingerprint = fingerprint_of(folder)
    try:
        with naming(path, advice="copy it again from where the set was prepared"):
            arrays = read_arrays(path, lambda name: True)
            if missing := _ALWAYS - set(arrays):
                raise DataError(f"lacks {some(sorted(missing))}")
    except DataError:
        if fingerprint is None:
            raise
        return None
    made_from = str(arrays.pop("fingerprint", ""))
    return arrays if fingerprint in (None, made_from) else None


def save(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays beside the prepared set, whole or not at all.

    Args:
      folder: `<data_dir>/<set>/<version>`; if it cannot be written to, a warning says so.
      arrays: what `load` returns later.
    """
    try:
        for leftover in folder.glob(f"{_TEMPORARY_PREFIX}*"):
            if time.time() - leftover.stat().st_mtime > _ABANDONED:
                leftover.unlink()
        handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY_PREFIX, dir=folder)
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, fingerprint=fingerprint_of(folder) or "", **arrays)
        os.chmod(temporary, 0o644)
        os.replace(temporary, folder / FILE_NAME)
    except OSError as error:
        warnings.warn(f"arrays are not cached, reading takes long again: {error}", stacklevel=2)


def fingerprint_of(folder: Path) -> str | None:
    """Return a hash of the names and contents of a prepared set's files, None where it has none.

    Reading what is hashed takes about 0.1 s for CIFAR-10 and spares every doubt about dates.
    """
    total = hashlib.sha256()
    files = sorted(
        file
        for file in folder.iterdir()
        if file.name != FILE_NAME and not file.name.startswith(".") and file.is_file()
    )
    for file in files:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        total.update(f"{file.name} {digest}\n".encode())
    return total.hexdigest() if files else None
