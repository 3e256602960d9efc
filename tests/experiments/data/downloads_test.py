import socket

import numpy as np
import pytest

from experiments.data.importing import DOWNLOADS, DownloadFailedError
from experiments.data.importing.downloads import check_reachable, download

URLS = ["https://example.org/data/train.bin", "https://example.org/data/test.bin"]


class Manager:
    """TFDS's download manager, as far as it is used."""

    def __init__(self, folder, error=None):
        self.folder, self.error = folder, error

    def download(self, urls):
        if self.error:
            raise self.error
        assert dict(zip(("train.bin", "test.bin"), URLS, strict=True)) == urls
        return {name: str(self.folder / name) for name in urls}


def test_files_are_known_by_their_names(tmp_path):
    files = download(URLS, Manager(tmp_path))
    assert files == {name: tmp_path / name for name in ("train.bin", "test.bin")}


def test_whatever_goes_wrong_is_told_in_one_line(tmp_path):
    manager = Manager(tmp_path, error=KeyError("wrong hash\nand much more"))
    with pytest.raises(DownloadFailedError, match="the download failed: 'wrong hash") as error:
        download(URLS, manager)
    assert "\n" not in str(error.value)


def test_a_host_without_address_is_found_out_at_once(monkeypatch):
    def unknown(host, port):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(DownloadFailedError, match=r"there is no connection to example\.org"):
        check_reachable(URLS)
    check_reachable([])
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy:3128"})
    check_reachable(URLS)


def test_downloaded_mnist_files_are_read(tmp_path):
    images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    header = b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4, "big") for size in images.shape)
    files = {}
    for prefix in ("train", "t10k"):
        for kind, data in (
            ("images-idx3", header + images.tobytes()),
            ("labels-idx1", b"\x00\x00\x08\x01\x00\x00\x00\x02\x03\x04"),
        ):
            name = f"{prefix}-{kind}-ubyte.gz"  # Plain content: the name does not matter.
            files[name] = tmp_path / f"hashed_{name}"
            files[name].write_bytes(data)
    source = DOWNLOADS["mnist"](files)
    np.testing.assert_array_equal(source.splits["test"].read(1)["image"][..., 0], images[1])
    assert source.splits["train"].read(0)["label"] == 3
