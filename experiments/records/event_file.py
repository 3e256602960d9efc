"""Scalars for TensorBoard, without TensorFlow."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FLUSH_SECONDS = 5.0

_log = logging.getLogger(__name__)


class EventFile:
    """A TensorBoard event file to which scalars are appended, in the caller's thread.

    tensorboardX's own `SummaryWriter` hands events to a thread that dies when the disk is full,
    after which the next few events block the run for good. Here a file that cannot be written, or
    a missing tensorboardX, costs one warning and the events.
    """

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        """Start a new event file.

        Args:
          folder: where event files of the run lie.
          purge_step: TensorBoard hides what older files say about this step and later ones.
        """
        self._writer: Any = None
        self._flushed = time.monotonic()
        try:
            from tensorboardX.proto.event_pb2 import SessionLog
            from tensorboardX.record_writer import RecordWriter
        except ImportError as error:
            _log.warning("no TensorBoard events: %s", error)
            return
        with self._giving_up():
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
            self._writer = RecordWriter(str(folder / name))
            self._add(0, file_version="brain.Event:2")
            self._add(purge_step, session_log=SessionLog(status=SessionLog.START))
            self._writer.flush()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Add the numbers among the values.

        Args:
          step: training steps done.
          values: numbers by tag; anything else is left out.
        """
        if self._writer is None:
            return
        from tensorboardX.summary import scalar

        with self._giving_up():
            for tag, value in values.items():
                if isinstance(value, int | float):
                    self._add(step, summary=scalar(tag, value))
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            with self._giving_up():
                self._writer.close()
            self._writer = None

    def _add(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(step=step, wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _log.warning("no more TensorBoard events: %s", error)
            writer, self._writer = self._writer, None
            if writer is not None:
                with contextlib.suppress(OSError):
                    writer.close()
