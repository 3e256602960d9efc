"""TensorBoard events: readable back, purged on resume, and never in the way of a run."""

import logging
import resource
import struct
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from experiments.records.event_file import EventFile


def read_events(path):
    """Parses a file of length-prefixed records."""
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def scalars(path):
    return [
        (event.step, value.tag, value.simple_value)
        for event in read_events(path)
        for value in event.summary.value
    ]


def test_numbers_are_written_and_strings_left_out(tmp_path):
    events = EventFile(tmp_path / "tensorboard", purge_step=0)
    events.write(3, {"train/loss": 0.5, "train/phase": "normal", "train/count": 7})
    events.write(4, {"train/loss": float("nan")})
    events.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert scalars(path)[:2] == [(3, "train/loss", 0.5), (3, "train/count", 7.0)]
    assert len(scalars(path)) == 3


def test_a_resumed_run_hides_what_was_lost(tmp_path):
    for purge_step in (0, 11):
        EventFile(tmp_path, purge_step=purge_step).close()
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 2
    for path, step in zip(paths, (0, 11), strict=True):
        starts = [event for event in read_events(path) if event.HasField("session_log")]
        assert [(event.step, event.session_log.status) for event in starts] == [
            (step, SessionLog.START)
        ]


def test_events_are_on_disk_after_a_while_without_a_thread(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.records.event_file.FLUSH_SECONDS", -1.0)
    events = EventFile(tmp_path, purge_step=0)
    events.write(1, {"a": 1})
    (path,) = tmp_path.iterdir()
    assert scalars(path) == [(1, "a", 1.0)]
    events.close()


def test_without_tensorboardx_there_is_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboardX.record_writer", None)
    with caplog.at_level(logging.WARNING):
        events = EventFile(tmp_path / "tensorboard", purge_step=0)
        events.write(1, {"a": 1})
        events.close()
    assert len(caplog.records) == 1
    assert "no TensorBoard events" in caplog.text
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("failing", ["write", "flush", "close"])
def test_an_error_costs_the_events_and_one_warning(tmp_path, monkeypatch, caplog, failing):
    monkeypatch.setattr("experiments.records.event_file.FLUSH_SECONDS", -1.0)
    events = EventFile(tmp_path, purge_step=0)
    method = getattr(RecordWriter, failing)

    def full(self, *args):
        if failing == "close":
            method(self)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordWriter, failing, full)
    for step in range(100):
        events.write(step, {"a": 1})
    events.close()
    assert [record.getMessage() for record in caplog.records] == [
        "no more TensorBoard events: [Errno 28] No space left on device"
    ]


def test_a_full_disk_does_not_stop_the_run(tmp_path, caplog):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        events = EventFile(tmp_path, purge_step=0)
        for step in range(1000):
            events.write(step, {"a": 1})
        events.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(caplog.records) == 1
    assert "File too large" in caplog.text
