"""Reading local copies of image sets and writing them in TFDS's own format."""

from pathlib import Path

from experiments.data.checks import DataError, naming
from experiments.data.files import regular_size
from experiments.data.importing.cifar import read_cifar_archive, read_cifar_folder
from experiments.data.importing.downloads import DOWNLOADS, DownloadFailedError
from experiments.data.importing.folders import read_class_folders
from experiments.data.importing.idx import read_idx_files
from experiments.data.importing.npz import read_npz
from experiments.data.importing.source import Source, SourceSplit, array_source
from experiments.data.importing.svhn import read_svhn_files
from experiments.data.importing.tfds_writer import known_originals, prepare_with_tfds, write_tfds
from experiments.data.importing.verification import describe_copy

__all__ = [
    "DOWNLOADS",
    "DownloadFailedError",
    "Source",
    "SourceSplit",
    "array_source",
    "describe_copy",
    "known_originals",
    "prepare_with_tfds",
    "read_source",
    "write_tfds",
]

_ARCHIVES = {".tar", ".tgz", ".tbz2", ".txz"}


def read_source(path: str | Path, num_classes: int | None = None) -> Source:
    """Read a local copy of an image set, whatever its form.

    Args:
      path: an original CIFAR archive (binary or python version), an `.npz` of arrays, or a folder:
        `train/<class>/<image>` and `val/<class>/<image>`, the IDX files of an MNIST-like set, the
        MATLAB files of SVHN, or what a CIFAR archive unpacks to.
      num_classes: of forms that do not say it; if None, labels must be exactly `0 ... K - 1`.

    Returns:
      The source (see `Source`).

    Raises:
      FileNotFoundError: if nothing is there.
      DataError: if it has none of these forms, or is damaged; one line that names file and member.
    """
    path = Path(path)
    if not path.exists() and not path.is_symlink():
        raise FileNotFoundError(f"no file or folder {path}")
    with naming(path):
        if path.is_dir():
            return _read_folder(path, num_classes)
        regular_size(path)
        if path.suffix == ".npz":
            return read_npz(path, num_classes)
        if _ARCHIVES & set(path.suffixes):
            return read_cifar_archive(path)
    raise DataError(
        f"cannot import {path}: give a CIFAR archive (.tar.gz), an .npz of arrays, or a folder"
    )


def _read_folder(folder: Path, num_classes: int | None) -> Source:
    if (folder / "train").is_dir():
        return read_class_folders(folder)
    files = {
        entry.name: entry
        for entry in sorted(folder.iterdir())
        if not entry.is_dir() and not entry.name.startswith(".")
    }
    if any("idx3-ubyte" in name for name in files):
        return read_idx_files(files, num_classes)
    if any(name.endswith(".mat") for name in files):
        return read_svhn_files(files)
    return read_cifar_folder(folder, files)
