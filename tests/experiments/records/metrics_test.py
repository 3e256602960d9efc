"""Metric lines: valid JSON, exact after a resume, and whole after a crash or on a full disk."""

import contextlib
import json
import math
import resource

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.records.metrics import MetricWriter, read_metrics


def write(workdir, steps, resume_step=None):
    writer = MetricWriter(workdir, resume_step=resume_step, tensorboard=False)
    with contextlib.closing(writer):
        for step in steps:
            writer.write(step, "train", {"loss": step / 10})


def steps_of(workdir):
    return [row["step"] for row in read_metrics(workdir)]


def test_lines_come_back_in_order(tmp_path):
    writer = MetricWriter(tmp_path / "new" / "run", resume_step=None, tensorboard=False)
    writer.write(1, "train", {"loss": jnp.float32(0.5), "count": np.int64(3), "phase": "normal"})
    writer.write(1, "validation", {"accuracy": 0.25, "best": True})
    found = read_metrics(tmp_path / "new" / "run")  # while the run goes on
    writer.close()
    assert found == [
        {"step": 1, "kind": "train", "loss": 0.5, "count": 3, "phase": "normal"},
        {"step": 1, "kind": "validation", "accuracy": 0.25, "best": True},
    ]
    assert list(found[0])[:2] == ["step", "kind"]


def test_a_run_without_metrics_has_none(tmp_path):
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_null_and_come_back(tmp_path, value):
    writer = MetricWriter(tmp_path, resume_step=None, tensorboard=False)
    writer.write(1, "train", {"loss": jnp.float32(value), "accuracy": 0.5})
    writer.close()

    def refuse(constant):
        raise AssertionError(constant)

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse)["loss"] is None
    write(tmp_path, [2], resume_step=1)  # the note survives a rewritten file
    first = read_metrics(tmp_path)[0]
    np.testing.assert_equal(first, {"step": 1, "kind": "train", "loss": value, "accuracy": 0.5})


def test_a_new_run_starts_from_nothing_and_a_resumed_one_where_it_was(tmp_path):
    write(tmp_path, [1, 2, 3, 4])
    write(tmp_path, [3, 4, 5], resume_step=2)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5]
    write(tmp_path, [0, 1])
    assert steps_of(tmp_path) == [0, 1]
    write(tmp_path, [1], resume_step=0)
    assert steps_of(tmp_path) == [0, 1]


def test_a_killed_and_resumed_run_has_the_file_of_an_undisturbed_one(tmp_path):
    write(tmp_path / "whole", range(10))
    write(tmp_path / "killed", range(7))
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "ki')
    write(tmp_path / "killed", range(5, 10), resume_step=4)
    whole, killed = (tmp_path / name / "metrics.jsonl" for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("rest", [b'{"step": 3, "kind": "tr', b"{", b"\x00\x00\xff", b"7\n", b"{}"])
def test_a_torn_line_is_left_out(tmp_path, rest):
    write(tmp_path, [1, 2])
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(rest)
    assert steps_of(tmp_path) == [1, 2]
    write(tmp_path, [3], resume_step=2)
    assert steps_of(tmp_path) == [1, 2, 3]
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 3


def test_the_last_line_counts_without_its_end(tmp_path):
    write(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    write(tmp_path, [3], resume_step=2)
    assert steps_of(tmp_path) == [1, 2, 3]


def test_a_full_disk_names_the_file_and_leaves_whole_lines(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*metrics.jsonl'"):
            write(tmp_path, range(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found = steps_of(tmp_path)
    assert found == list(range(len(found)))
    assert found
    write(tmp_path, [99], resume_step=found[-1])
    assert steps_of(tmp_path) == [*found, 99]


def test_an_unwritable_workdir_is_named(tmp_path):
    (tmp_path / "run").write_text("a file in the way")
    with pytest.raises(FileExistsError, match="/run'"):
        MetricWriter(tmp_path / "run", resume_step=None)


def test_tensorboard_gets_the_kind_in_the_tag(tmp_path, monkeypatch):
    written, folders = [], []

    class Spy:
        def __init__(self, folder, *, purge_step):
            folders.append((folder, purge_step))

        def write(self, step, values):
            written.append((step, values))

        def close(self):
            written.append("closed")

    monkeypatch.setattr("experiments.records.metrics.EventFile", Spy)
    writer = MetricWriter(tmp_path, resume_step=10)
    writer.write(11, "train", {"loss": np.float32(0.5)})
    writer.close()
    assert folders == [(tmp_path / "tensorboard", 11)]
    assert written == [(11, {"train/loss": 0.5}), "closed"]
