"""The original files of well-known sets, downloaded by TFDS and read without TensorFlow."""

import functools
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.data.importing.cifar import read_cifar_archive
from experiments.data.importing.idx import read_idx_files
from experiments.data.importing.source import Source
from experiments.data.importing.svhn import read_svhn_files

FileReader = Callable[[Mapping[str, Path]], Source]
"""Reads a set's original files, `file name -> path`."""


class DownloadFailedError(RuntimeError):
    """Original files that cannot be had from the network, or not unharmed."""


def _read_only_archive(files: Mapping[str, Path]) -> Source:
    (archive,) = files.values()
    return read_cifar_archive(archive)


_read_ten_classes = functools.partial(read_idx_files, num_classes=10)

DOWNLOADS: dict[str, FileReader] = {
    "cifar10": _read_only_archive,
    "cifar100": _read_only_archive,
    "fashion_mnist": _read_ten_classes,
    "kmnist": _read_ten_classes,
    "mnist": _read_ten_classes,
    "svhn_cropped": read_svhn_files,
}
"""How the files that TFDS downloads are read; builders of other sets need TensorFlow for that."""


def download(urls: Iterable[str], manager: Any) -> dict[str, Path]:
    """Download files, checked against TFDS's own hashes and cached in its folder `downloads`.

    Args:
      urls: of the files; their last parts are the file names.
      manager: TFDS's download manager.

    Returns:
      `file name -> path`.

    Raises:
      DownloadFailedError: in one line, whatever went wrong.
    """
    by_name = {url.rsplit("/", 1)[-1]: url for url in urls}
    try:
        return {name: Path(path) for name, path in manager.download(by_name).items()}
    except Exception as error:  # TFDS passes on the exceptions of several network packages.
        reason = str(error).partition("\n")[0][:200]
        raise DownloadFailedError(f"the download failed: {reason}") from error


def check_reachable(urls: Iterable[str]) -> None:
    """Raise at once where a download would only fail after minutes of retries.

    Args:
      urls: of the files.

    Raises:
      DownloadFailedError: if a host has no address and no proxy could know better.
    """
    if urllib.request.getproxies():
        return
    for host in {urllib.parse.urlsplit(url).hostname for url in urls} - {None}:
        try:
            socket.getaddrinfo(host, 443)
        except OSError as error:
            raise DownloadFailedError(f"there is no connection to {host}") from error
