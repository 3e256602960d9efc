"""Ctrl-C and kill, as a person at a terminal meets them."""

import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.main_command import command, start
from tests.helpers.tiny_runs import SMALLER

IN_A_TERMINAL = (
    "import os, pty, sys; os._exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])) % 256)"
)
KILLED_BY_SIGINT = -signal.SIGINT % 256

# Steps in long stretches of a second or two, so that there is time for a second Ctrl-C.
LONG_STRETCHES = {
    **SMALLER,
    "method": "static",
    "batch_size": 1,
    "epochs": 100,
    "logs_per_epoch": 1,
    "runtime.dispatch_seconds": 1000.0,
}


def read_until(process, text):
    """What the process prints up to a text."""
    seen = ""
    while text not in seen:
        piece = process.stdout.read(1)
        assert piece, seen
        seen += piece
    return seen


@pytest.fixture
def run(tmp_path):
    """Start the run in a terminal, or without one; it has begun to train on return."""
    children = []

    def begin(*, terminal):
        arguments = command(tmp_path / "run", LONG_STRETCHES)
        if terminal:
            arguments = [sys.executable, "-c", IN_A_TERMINAL, *arguments]
        child = start(
            arguments,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        children.append(child)
        read_until(child, "normal")
        return child

    yield begin
    for child in children:
        child.kill()
        child.communicate()


def press_ctrl_c(process):
    process.stdin.write("\x03")
    process.stdin.flush()


def test_ctrl_c_kill_and_a_closed_terminal_save_and_a_second_ctrl_c_leaves_at_once(run, tmp_path):
    saved = tmp_path / "run" / "checkpoints"

    child = run(terminal=True)
    press_ctrl_c(child)
    told = read_until(child, "the same command continues from there")
    assert "stopping: saving after the current steps (once more: leave at once)" in told
    assert "stopped: SIGINT; saved at step " in told
    assert child.wait() == 130
    [first] = saved.iterdir()

    child = run(terminal=True)
    press_ctrl_c(child)
    read_until(child, "once more: leave at once")
    press_ctrl_c(child)
    assert child.wait() == KILLED_BY_SIGINT
    assert list(saved.iterdir()) == [first]

    child = run(terminal=False)
    child.send_signal(signal.SIGTERM)
    told = read_until(child, "the same command continues from there\n")
    assert told.splitlines()[-1].startswith("stopped: SIGTERM; saved at step ")
    assert child.wait() == 143
    assert len(list(saved.iterdir())) == 2

    child = run(terminal=True)
    child.kill()  # the terminal is gone: the run gets a SIGHUP and can show nothing
    deadline = time.monotonic() + 120
    while len(list(saved.glob("[0-9]*"))) < 3:
        assert time.monotonic() < deadline, sorted(saved.iterdir())
        time.sleep(0.1)
