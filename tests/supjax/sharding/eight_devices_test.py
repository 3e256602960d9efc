"""The whole plan and both backends once more, in a process with eight devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

FOLDER = Path(__file__).parent
CHOSEN = "plan_test or backends"


@pytest.mark.skipif(jax.device_count() == 8, reason="this is that process")
def test_eight_devices_do_what_four_do():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", CHOSEN]
    done = subprocess.run(
        [*command, str(FOLDER)],
        env=os.environ | {"SUPJAX_TEST_DEVICES": "8"},
        cwd=FOLDER.parents[2],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
