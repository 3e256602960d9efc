"""Two processes on one machine, which talk to each other as hosts of a cluster do."""

import signal
import socket
import subprocess

import numpy as np
import pytest

from experiments.errors import InterruptedRunError
from experiments.run import host
from tests.helpers.main_command import command, start
from tests.helpers.results import assert_same_results
from tests.helpers.tiny_runs import SMALLER, read_json, run_tiny

PLAIN = {**SMALLER, "method": "rigl", "runtime.devices": 0}
ALONE = {**PLAIN, "runtime.devices": 1}


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def run_both(workdir):
    port = free_port()
    children = [
        start(
            command(
                workdir,
                PLAIN,
                f"--coordinator=127.0.0.1:{port}",
                "--processes=2",
                f"--process={index}",
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in (0, 1)
    ]
    outputs = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    return outputs


def test_two_processes_continue_a_run_and_end_as_one_process(tmp_path, stop_at):
    workdir = tmp_path / "two"
    stop_at(3)
    with pytest.raises(InterruptedRunError):
        run_tiny(workdir, ALONE)
    first, second = run_both(workdir)
    assert "continuing at step 3 of 32" in first
    assert "superposed 0-2" in first
    assert "superposed" not in second  # only the first process reports
    assert read_json(workdir / "summary.json")["hardware"]["hosts"] == 2
    run_tiny(tmp_path / "one", ALONE)
    assert_same_results(tmp_path / "one", workdir)


@pytest.mark.parametrize(
    ("proposals", "agreed"),
    [
        ([(9, 0), (7, 0)], (7, 0)),
        ([(9, 0), (9, signal.SIGTERM)], (9, signal.SIGTERM)),
        ([(8, signal.SIGINT), (9, signal.SIGTERM)], (8, signal.SIGTERM)),
    ],
)
def test_all_processes_stop_where_and_why_the_first_of_them_does(proposals, agreed, monkeypatch):
    sent = []

    def gathered(own):
        """What every process gets: all that is sent."""
        sent.append(own)
        return np.stack(sent)

    monkeypatch.setattr(host.jax, "process_count", lambda: len(proposals))
    monkeypatch.setattr(host.multihost_utils, "process_allgather", gathered)
    answers = [host.agreed_stop(*proposal) for proposal in proposals]
    assert answers[-1] == agreed  # the last one has heard all
