"""The folder of a run: whose it is, and that it has one user at a time."""

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from experiments.errors import CheckpointError, RunError
from experiments.records.folder import RunFolder

CONFIG = {
    "seed": 1,
    "model": {"name": "vgg16", "shape": (3, 3)},
    "optimizer": {"learning_rate": 0.1, "decay": None},
    "runtime": {"keep_checkpoints": 3},
}


def tie(workdir, config):
    RunFolder(workdir, ConfigDict(config)).tie()


def test_the_first_config_is_written_and_the_same_one_accepted(tmp_path: Path) -> None:
    workdir = tmp_path / "runs" / "first"
    tie(workdir, CONFIG)
    written = json.loads((workdir / "config.json").read_text())
    assert written == CONFIG | {"model": {"name": "vgg16", "shape": [3, 3]}}
    tie(workdir, CONFIG)
    tie(workdir, CONFIG | {"runtime": {"data_dir": "/data"}})
    tie(workdir, {name: CONFIG[name] for name in ("seed", "model", "optimizer")})
    assert [entry.name for entry in workdir.iterdir()] == ["config.json"]


def test_another_config_is_refused_field_by_field(tmp_path: Path) -> None:
    tie(tmp_path, CONFIG)
    other = {
        "seed": True,
        "model": {"name": "vgg19", "shape": (3, 3), "width": 0.5},
        "optimizer": {"learning_rate": 0.1},
        "runtime": {"keep_checkpoints": 1},
    }
    with pytest.raises(CheckpointError) as caught:
        tie(tmp_path, other)
    assert str(caught.value).splitlines() == [
        f"{tmp_path} belongs to another config:",
        'model.name: "vgg16" in the workdir, "vgg19" given',
        "model.width: nothing in the workdir, 0.5 given",
        "optimizer.decay: null in the workdir, nothing given",
        "seed: 1 in the workdir, true given",
    ]


@pytest.mark.parametrize("content", ["", '{"seed": 1', "[1]"])
def test_a_damaged_config_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"^cannot use .*config\.json: [^\n]+$"):
        tie(tmp_path, CONFIG)


def test_a_workdir_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"^cannot use .*file/run/config\.json: [^\n]+$"):
        tie(tmp_path / "file" / "run", CONFIG)


def test_a_folder_has_one_user_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "run", ConfigDict(CONFIG))
    folder.tie()
    refused = pytest.raises(RunError, match="run is in use by another process")
    with folder.locked(), refused, folder.locked():
        pass
    with folder.locked():
        folder.tie()


def test_a_file_system_without_locks_is_not_guarded(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.tie()

    def unsupported(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    entered = []
    with folder.locked():
        entered.append(folder)
    assert entered == [folder]
