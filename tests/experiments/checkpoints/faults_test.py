"""Checkpoints under faults: damaged files, kills, full and read-only disks, several processes."""

import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.checkpoints import npz_handler
from experiments.checkpoints.manager import Checkpoints
from experiments.errors import CheckpointError
from experiments.run.steps import RunState
from tests.helpers.checkpoint_states import bits, make_state, small_state

ROOT = Path(__file__).parents[3]


def state_of(step: int) -> RunState:
    return make_state(step, "superposed")


def start_child(*arguments: object, **options: Any) -> subprocess.Popen:
    script = ROOT / "tests/helpers/checkpoint_states.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)], env=environment, text=True, **options
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at steps 1, 2 and 3; to be copied before it is damaged."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir)
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step), {"step": step})
    return workdir


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """A copy of `saved` of one's own."""
    return shutil.copytree(saved, tmp_path / "run")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root alone, outside most containers")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def restored_step(workdir: Path, skipped: list[int]) -> int:
    """Restore, check the state bit for bit and the reports, and return the step."""
    found = Checkpoints(workdir).restore_latest(make_state(0, "superposed"))
    assert found is not None
    state, info, reports = found
    assert bits(state) == bits(state_of(info["step"]))
    assert [line.split(":")[0] for line in reports] == [
        f"skipped the checkpoint of step {step}" for step in skipped
    ]
    assert all(len(line) < 250 and "\n" not in line for line in reports)
    return info["step"]


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_truncated_state_file_is_passed_over(run: Path, share: float) -> None:
    file = run / "checkpoints" / "3" / npz_handler.FILE
    os.truncate(file, int(share * file.stat().st_size))
    assert restored_step(run, skipped=[3]) == 2
    folder = run / "checkpoints"
    assert sorted(os.listdir(folder)) == ["1", "2", "3.damaged"]
    assert restored_step(run, skipped=[]) == 2
    Checkpoints(run).save(3, state_of(3), {"step": 3})
    assert restored_step(run, skipped=[]) == 3


def test_no_flipped_bit_goes_unnoticed(run: Path) -> None:
    """Along the whole file: either the checkpoint is passed over or the flip changed nothing."""
    file = run / "checkpoints" / "3" / npz_handler.FILE
    content = file.read_bytes()
    reader = Checkpoints(run, primary=False)
    passed_over = 0
    for place in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        found = reader.restore_latest(make_state(0, "superposed"))
        assert found is not None
        assert bits(found[0]) == bits(state_of(2 if found[2] else 3))
        passed_over += bool(found[2])
    assert passed_over > len(range(0, len(content), 97)) / 4  # many bytes are headers and padding


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_any_damaged_file_gives_the_newest_or_the_one_before(run: Path, damage: str) -> None:
    newest = run / "checkpoints" / "3"
    whole = shutil.copytree(newest, run / "whole")
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert Path(npz_handler.FILE) in files
    for file in files:
        shutil.rmtree(newest, ignore_errors=True)
        shutil.copytree(whole, newest)
        if damage == "truncate":
            os.truncate(newest / file, 1)
        else:
            (newest / file).unlink()
        found = Checkpoints(run).restore_latest(make_state(0, "superposed"))
        assert found is not None
        assert bits(found[0]) == bits(state_of(2 if found[2] else 3))
        assert found[2] or file.name != npz_handler.FILE


def test_an_emptied_and_a_misnamed_checkpoint_are_passed_over(run: Path) -> None:
    folder = run / "checkpoints"
    shutil.rmtree(folder / "3")
    (folder / "3").mkdir()
    shutil.copytree(folder / "1", folder / "4")
    assert restored_step(run, skipped=[4, 3]) == 2
    assert sorted(os.listdir(folder)) == ["1", "2", "3.damaged", "4.damaged"]


def test_a_reader_leaves_damage_where_it_is(run: Path) -> None:
    (run / "checkpoints" / "3" / npz_handler.FILE).unlink()
    for _ in range(2):
        found = Checkpoints(run, primary=False).restore_latest(make_state(0, "superposed"))
        assert found is not None
        assert bits(found[0]) == bits(state_of(2))
        assert len(found[2]) == 1
    assert Checkpoints(run).steps() == [1, 2, 3]


def test_damage_to_all_is_an_error_and_moves_nothing(run: Path) -> None:
    for step in (1, 2, 3):
        os.truncate(run / "checkpoints" / str(step) / npz_handler.FILE, 10)
    with pytest.raises(CheckpointError, match=r"^no checkpoint in .* can be used; step 3: [^\n]+$"):
        Checkpoints(run).restore_latest(make_state(0, "superposed"))
    assert Checkpoints(run).steps() == [1, 2, 3]


def test_checkpoints_of_another_model_are_an_error_that_names_the_leaf(run: Path) -> None:
    os.truncate(run / "checkpoints" / "3" / npz_handler.FILE, 10)
    other = make_state(0, "superposed", width=7)
    with pytest.raises(CheckpointError, match=r"step 2: train/params/conv/bias is float32\[6\] in"):
        Checkpoints(run).restore_latest(other)
    assert Checkpoints(run).steps() == [1, 2, 3]


def test_a_kill_before_any_file_operation_loses_nothing(tmp_path: Path) -> None:
    assert start_child("save_and_die_at_every_file_operation", tmp_path).wait(timeout=300) == 0
    series = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert len(series) > 30
    last_steps = set()
    for workdir in series:
        announced = Path(f"{workdir}.announced")
        at_least = int(announced.read_text()) if announced.exists() else None
        checkpoints = Checkpoints(workdir, keep=1)
        found = checkpoints.restore_latest(small_state(0))
        if found is None:
            assert at_least is None
            continue
        step = int(found[0].step)
        assert bits(found[0]) == bits(small_state(step))
        assert found[2] == []
        assert at_least is None or step >= at_least
        assert all(name.isdecimal() for name in os.listdir(workdir / "checkpoints"))
        last_steps.add(step)
    assert last_steps == {0, 1}


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    random.seed(0)
    workdirs = [tmp_path / str(i) for i in range(3)]
    children = [start_child("save_until_killed", w, stdout=subprocess.PIPE) for w in workdirs]
    for workdir, child in zip(workdirs, children, strict=True):
        assert child.stdout is not None
        assert child.stdout.readline() == "0\n"
        time.sleep(random.uniform(0, 0.3))
        child.send_signal(signal.SIGKILL)
        announced = child.stdout.read().split()
        child.stdout.close()
        child.wait()
        found = Checkpoints(workdir).restore_latest(small_state(0))
        assert found is not None
        step = int(found[0].step)
        assert step >= max(map(int, announced), default=0)
        assert bits(found[0]) == bits(small_state(step))
        assert found[2] == []


def noise(size: int) -> Any:
    """A state of about `size` bytes that does not pack."""
    values = np.random.RandomState(0).randn(size // 4).astype(np.float32)
    return small_state(0)._replace(params={"noise": jnp.asarray(values)})


def test_a_full_disk_is_one_line_and_older_checkpoints_stay(disk: Path) -> None:
    checkpoints = Checkpoints(disk)
    checkpoints.save(1, state_of(1), {"step": 1})
    checkpoints.save(2, state_of(2), {"step": 2})
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    for step in (2, 3):  # a step that exists, and a new one
        with pytest.raises(
            CheckpointError,
            match=rf"^cannot save step {step} in .*: No space left on device, 0\.\d MiB free; "
            "the checkpoint of step 2 is intact$",
        ):
            checkpoints.save(step, noise(2**18), {})
        assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == before
        assert checkpoints.steps() == [1, 2]
    checkpoints.save(3, state_of(3), {"step": 3})
    assert restored_step(disk, skipped=[]) == 3


@pytest.mark.parametrize("step", [3, 4])
def test_a_failing_write_is_one_line_and_older_checkpoints_stay(
    run: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpoints = Checkpoints(run)
    with monkeypatch.context() as patch:
        patch.setattr(npz_handler.os, "fsync", no_space)
        with pytest.raises(
            CheckpointError,
            match=rf"^cannot save step {step} in .*checkpoints: No space left on device, "
            r"\d+\.\d MiB free; the checkpoint of step 3 is intact$",
        ):
            checkpoints.save(step, state_of(1), {})
    assert sorted(os.listdir(run / "checkpoints")) == ["1", "2", "3"]
    assert restored_step(run, skipped=[]) == 3


def test_an_interrupted_save_is_undone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(npz_handler.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Checkpoints(run).save(3, state_of(1), {})
    assert sorted(os.listdir(run / "checkpoints")) == ["1", "2", "3"]
    assert restored_step(run, skipped=[]) == 3


def check_read_only(workdir: Path) -> None:
    """Check that saving fails in one line and that restoring works."""
    checkpoints = Checkpoints(workdir)
    with pytest.raises(CheckpointError, match=r"^cannot save step 4 in [^\n]*step 1 is intact$"):
        checkpoints.save(4, state_of(3), {})
    with pytest.raises(CheckpointError, match=r"^cannot save step 1 in [^\n]*step 1 is intact$"):
        checkpoints.save(1, state_of(3), {})
    assert restored_step(workdir, skipped=[]) == 1
    with pytest.raises(CheckpointError, match=r"^cannot write to .*new/checkpoints: [^\n]+$"):
        Checkpoints(workdir / "new")


def test_a_read_only_disk_is_one_line(disk: Path) -> None:
    Checkpoints(disk).save(1, state_of(1), {"step": 1})
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    check_read_only(disk)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(1, state_of(1), {"step": 1})
    folders = [tmp_path / "checkpoints", tmp_path]
    for folder in folders:
        folder.chmod(0o555)
    try:
        check_read_only(tmp_path)
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_two_processes_share_what_one_of_them_writes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [start_child("save_as_one_of_two", tmp_path, i, port) for i in range(2)]
    assert [child.wait(timeout=120) for child in children] == [0, 0]
    assert os.listdir(tmp_path / "checkpoints") == ["5"]


def test_nothing_is_printed(tmp_path: Path) -> None:
    child = start_child(
        "save_as_an_absl_program", tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert child.communicate(timeout=120)[0] == "[2, 3]\n"
