"""One finished run that many tests look at, and a way to stop a run after a certain step."""

import os
import signal
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments import train
from experiments.run.host import Clock
from tests.helpers.tiny_runs import Compilations, run_tiny


class FinishedRun(NamedTuple):
    workdir: Path  # to be copied by tests that change it
    summary: dict
    compiled: Counter


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> FinishedRun:
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with Compilations() as compilations:
        summary = run_tiny(workdir)
    return FinishedRun(workdir, summary, compilations.count)


@pytest.fixture
def stop_at(monkeypatch):
    """Send this process a real signal when so many steps are done; steps go one by one."""
    dispatch = train.dispatch
    target = {}

    def signalling(run, state, step, stop):
        result = dispatch(run, state, step, stop)
        if stop == target.get("step"):
            os.kill(os.getpid(), target["signal"])
            target.clear()
        return result

    monkeypatch.setattr(train, "dispatch", signalling)
    monkeypatch.setattr(Clock, "steps_within", lambda clock, seconds: 1)

    def arm(step, number=signal.SIGTERM):
        target.update(step=step, signal=number)

    return arm
