"""A disk that fills up in the middle of a run."""

import os
import shutil
import subprocess
import sys

import pytest

from experiments.errors import CheckpointError, RunError
from tests.experiments.main_job.fault_drill import fingerprints
from tests.helpers.tiny_runs import run_tiny

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None,
    reason="only root can mount a small file system, and only Linux has tmpfs",
)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB, room for two checkpoints or so, and a function that enlarges it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let root mount a file system")
    yield disk, lambda: subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_stops_the_run_and_room_lets_it_continue(finished, small_disk):
    disk, enlarge = small_disk
    with pytest.raises(RunError, match="No space left on device") as full:
        run_tiny(disk / "run")
    assert "\n" not in str(full.value)
    assert full.value.exit_code == (4 if isinstance(full.value, CheckpointError) else 1)
    saved = {path.name for path in (disk / "run" / "checkpoints").iterdir()}
    assert saved
    assert all(name.isdecimal() for name in saved)  # nothing unfinished, nothing damaged
    with pytest.raises(RunError, match="No space left on device"):
        run_tiny(disk / "run")  # nothing gets worse
    enlarge()
    run_tiny(disk / "run")
    assert fingerprints(disk / "run") == fingerprints(finished.workdir)
