"""Signals that stop a command: one line, the usual exit status, and nothing lost."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NOTE = b"\nstopping: saving after the current steps (once more: leave at once)\n"


class StoppedError(KeyboardInterrupt):
    """A signal stopped a command that had nothing to save first.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Signals:
    """Context in which the signals to stop have a meaning; afterwards they have the former one.

    They are SIGINT, SIGTERM, and SIGHUP unless it is ignored, as under `nohup`. Only the first of
    them counts. Schedulers repeat SIGTERM and a terminal that closes repeats SIGHUP, so that these
    end nothing more; a second Ctrl-C is a person's, and ends the process at once. Python tells its
    handlers of a signal only when a compilation or a dispatch has ended; a thread that waits for
    the numbers does not depend on it.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Any:
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for number in _STOPPING:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup
            self._previous[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        self._woken_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._woken_before)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._writer)
        if self.received and kind is None:  # it came too late to be looked at
            signal.raise_signal(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL if each == signal.SIGINT else signal.SIG_IGN)

    def _watch(self, reader: int) -> None:
        """Read the numbers of all signals as they come, until the context ends."""
        come = 0
        while number := os.read(reader, 1):
            if number[0] in self._previous:
                come += 1
                if come == 1:
                    self._first()
                elif number[0] == signal.SIGINT:
                    os._exit(128 + signal.SIGINT)
        os.close(reader)

    def _first(self) -> None:
        """Tell a person that the first signal has come."""


class StopSignals(_Signals):
    """Context in which the first signal to stop is noted, for work that has something to save.

    Whoever acts on it raises inside; a signal that nobody has acted on is sent again at the end.

    Attributes:
      received: the signal's number, or 0.

    >>> try:
    ...     with StopSignals() as signals:
    ...         signal.raise_signal(signal.SIGTERM)
    ...         if signals.received:
    ...             raise InterruptedError(f"saved after signal {signals.received}")
    ... except InterruptedError as error:
    ...     print(error)
    saved after signal 15
    """

    def _first(self) -> None:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a terminal that is gone
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _NOTE)


class SignalsStop(_Signals):
    """Context that the first signal to stop ends by a `StoppedError`.

    >>> try:
    ...     with SignalsStop():
    ...         signal.raise_signal(signal.SIGTERM)
    ... except StoppedError as error:
    ...     print(error)
    SIGTERM
    """

    def _handle(self, number: int, frame: FrameType | None) -> NoReturn:
        super()._handle(number, frame)
        raise StoppedError(number)
