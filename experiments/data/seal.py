"""A checksum over the description of a prepared set, whose other files have checksums inside.

Records know when they are damaged; the small files beside them (features, splits, class names) do
not, and a changed digit in one of them changes the set without a word.
"""

import hashlib
from pathlib import Path

from experiments.data.checks import DataError
from experiments.data.files import regular_size

SEAL = "description.sha256"
DESCRIPTIONS = (".json", ".txt")
"""Suffixes of the files that describe a prepared set."""


def write_seal(folder: Path) -> None:
    """Write the checksum of a set that has just been prepared."""
    (folder / SEAL).write_text(f"{_digest(folder)}\n", encoding="ascii")


def check_seal(folder: Path) -> None:
    """Check the description of a prepared set, if it has a seal; others do not have one.

    Raises:
      DataError: if it is not what was sealed; the folder is not named.
    """
    digest = _digest(folder)
    if (folder / SEAL).exists():
        regular_size(folder / SEAL)
        with (folder / SEAL).open("rb") as file:
            sealed = file.read(100).decode("ascii", "replace").strip()
        if sealed != digest:
            raise DataError(
                f"is not as it was prepared: its .json and .txt files have another SHA-256 than"
                f" {SEAL} says; remove the folder and prepare the set again"
            )


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.suffix in DESCRIPTIONS):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.name} {digest}\n".encode())
    return total.hexdigest()
