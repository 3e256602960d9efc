"""SIGINT and SIGTERM as a request: finish the dispatch, save the state, then leave."""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any

_NOTE = b"\nstopping: saving after the current steps (once more: leave at once)\n"


class StopSignals:
    """Context in which the first SIGINT or SIGTERM is noted; the second one ends the process.

    Attributes:
      received: the signal's number, or 0.

    >>> import os, signal
    >>> with StopSignals() as signals:
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     signals.received == signal.SIGTERM
    True
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in self._previous:
            # Python's own handlers wait for the end of a dispatch or a compilation; these do not.
            signal.signal(each, signal.SIG_DFL)
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), _NOTE)
