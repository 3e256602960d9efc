"""Reading local copies of image sets and writing them in TFDS's own format."""

from pathlib import Path

from experiments.data.importing.cifar import read_cifar_archive, read_cifar_files
from experiments.data.importing.downloads import DOWNLOADS, DownloadFailedError
from experiments.data.importing.folders import read_class_folders
from experiments.data.importing.idx import read_idx_files
from experiments.data.importing.npz import read_npz
from experiments.data.importing.source import Source, SourceSplit, array_source
from experiments.data.importing.svhn import read_svhn_files
from experiments.data.importing.tfds_writer import prepare_with_tfds, write_tfds

__all__ = [
    "DOWNLOADS",
    "DownloadFailedError",
    "Source",
    "SourceSplit",
    "array_source",
    "prepare_with_tfds",
    "read_source",
    "write_tfds",
]


def read_source(path: str | Path) -> Source:
    """Read a local copy of an image set, whatever its form.

    Args:
      path: an original CIFAR archive (binary or python version), an `.npz` of arrays, or a folder:
        `train/<class>/<image>` and `val/<class>/<image>`, the IDX files of an MNIST-like set, the
        MATLAB files of SVHN, or what a CIFAR archive unpacks to.

    Returns:
      The source (see `Source`).

    Raises:
      FileNotFoundError: if nothing is there.
      ValueError: if it has none of these forms, or is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".npz":
        return read_npz(path)
    if ".tar" in path.suffixes or path.suffix == ".tgz":
        return read_cifar_archive(path)
    raise ValueError(
        f"cannot import {path}: give a CIFAR archive (.tar.gz), an .npz of arrays, or a folder"
    )


def _read_folder(folder: Path) -> Source:
    if (folder / "train").is_dir():
        return read_class_folders(folder)
    files = {file.name: file for file in sorted(folder.iterdir()) if file.is_file()}
    if any("idx3-ubyte" in name for name in files):
        return read_idx_files(files)
    if any(name.endswith(".mat") for name in files):
        return read_svhn_files(files)
    return read_cifar_files({name: file.read_bytes() for name, file in files.items()})
