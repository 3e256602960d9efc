import os
import signal

import pytest

from experiments.run.host import StopSignals


@pytest.fixture
def hangup():
    """Give SIGHUP back to whoever had it."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stderr", ["none", "kept"])
def test_a_signal_is_noted_and_later_hangups_end_nothing(monkeypatch, hangup, number, stderr):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if stderr == "none":
        monkeypatch.setattr("sys.stderr", None)
    with StopSignals() as signals:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received == number
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_hangups_that_nohup_ignores_stay_ignored(hangup):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not signals.received
