"""Signals to a command, alone, twice and in calls that Python cannot interrupt."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from experiments.stopping import SignalsStop, StoppedError, StopSignals

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers():
    """Python's usual handlers, whatever this process was started with; given back afterwards."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class ActedOnError(Exception):
    """Ends a context as work does that has saved."""


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("later", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stderr", ["none", "kept"])
def test_the_first_signal_is_noted_and_repeated_ones_end_nothing(
    monkeypatch, number, later, stderr
):
    if stderr == "none":
        monkeypatch.setattr("sys.stderr", None)

    def act():
        with StopSignals() as signals:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), later)
            raise ActedOnError(signals.received)

    with pytest.raises(ActedOnError, match=f"^{int(number)}$"):
        act()
    assert [signal.getsignal(each) for each in STOPPING] == [signal.SIG_DFL] * 3


@pytest.mark.parametrize("make", [StopSignals, SignalsStop])
def test_hangups_that_nohup_ignores_stay_ignored(make):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with make() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not signals.received


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_ends_a_command_without_anything_to_save_by_an_error(number):
    with pytest.raises(StoppedError, match=number.name) as stopped, SignalsStop():
        signal.raise_signal(number)
    assert stopped.value.number == number
    assert isinstance(stopped.value, KeyboardInterrupt)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_that_came_too_late_to_be_noted_is_not_lost(number):
    done = []

    def work():
        with SignalsStop():
            with StopSignals():
                signal.raise_signal(number)
            done.append("after")

    with pytest.raises(StoppedError, match=number.name):
        work()
    assert not done


def test_contexts_leave_no_thread_and_no_pipe():
    def in_use():
        return len(os.listdir("/proc/self/fd")) + threading.active_count()

    before = in_use()
    for _ in range(20):
        with SignalsStop(), StopSignals():
            pass
    deadline = time.monotonic() + 30
    while in_use() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert signal.set_wakeup_fd(-1) == -1


LONG_CALL = """
import hashlib, signal, sys
from experiments.stopping import *
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever started this process
    signal.signal(number, signal.SIG_DFL)
with {context}() as signals:
    print("ready", flush=True)
    # As a compilation does: it lets other threads run, and no signal comes through before its end.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)
    print("through", signals.received, flush=True)
    sys.exit(9)
"""

PAIRS = ["SIGINT SIGINT", "SIGTERM SIGTERM", "SIGHUP SIGHUP", "SIGTERM SIGINT", "SIGINT SIGTERM"]


@pytest.mark.parametrize("context", ["StopSignals", "SignalsStop"])
@pytest.mark.parametrize("names", PAIRS)
def test_a_second_ctrl_c_ends_a_long_call_at_once_and_nothing_else_does(context, names):
    sent = [signal.Signals[name] for name in names.split()]
    child = subprocess.Popen(
        [sys.executable, "-c", LONG_CALL.format(context=context)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    for number in sent:
        time.sleep(0.3)
        child.send_signal(number)
    printed, errors = child.communicate(timeout=120)
    if sent[1] == signal.SIGINT:
        assert (printed, errors) == ("", "")
        assert child.returncode in (130, -signal.SIGINT)  # the latter: the call had not begun
    elif context == "StopSignals":
        assert (printed, child.returncode) == (f"through {int(sent[0])}\n", 9), errors
    else:
        assert printed == ""
        assert errors.splitlines()[-1].startswith("experiments.stopping.StoppedError: SIG")
