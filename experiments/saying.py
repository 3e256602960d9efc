"""What is printed is never part of the work."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

PLAIN = str.maketrans({"±": "+-"})
"""What stands for a character that a terminal cannot show; others become escapes."""


def say(text: str = "", *, to_stderr: bool = False, file: TextIO | None = None) -> None:
    r"""Print a line at once; a printer that fails costs the text, never the work.

    A reader that has left (`| head -1`) is no mistake and says nothing; a full disk or a closed
    output is told in one line on standard error, once. Characters that the output's encoding lacks
    are replaced. Afterwards nothing is left in Python's buffer that could fail at the exit.

    Args:
      text: one line or several, without the last line break.
      to_stderr: whether to print to standard error.
      file: prints to this stream instead.

    >>> say("difference +0.39 ± 0.27")
    difference +0.39 ± 0.27
    """
    stream = file or (sys.stderr if to_stderr else sys.stdout)
    if stream is not None:  # None: closed before Python started
        _write(_plain(stream), f"{text}\n")


def _write(stream: TextIO, text: str) -> None:
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError as error:
            plain = text.translate(PLAIN).encode(error.encoding, "backslashreplace")
            stream.write(plain.decode(error.encoding))
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: it has been closed since
        _drain(stream)
        if stream is not _plain(sys.stderr) and not isinstance(error, BrokenPipeError):
            why = error.strerror if isinstance(error, OSError) else None
            say(f"output is not shown: {why or error}", to_stderr=True)


class _Forgiving:
    """A stream for all that libraries print themselves, such as progress bars: see `say`."""

    def __init__(self, stream: TextIO) -> None:
        self.plain = stream

    def write(self, text: str) -> int:
        """Write a text, as far as that is possible."""
        _write(self.plain, text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: what is written is out."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


def _plain(stream: Any) -> Any:
    return stream.plain if isinstance(stream, _Forgiving) else stream


@contextlib.contextmanager
def forgiving_streams() -> Iterator[None]:
    """Let no printing fail, whoever prints; afterwards nothing is left that could fail later.

    >>> with forgiving_streams():
    ...     print("text")
    text
    """
    before = sys.stdout, sys.stderr
    with open(
        os.devnull, "w", encoding="utf-8"
    ) as nowhere:  # for one that was closed from the start
        streams: list[Any] = [_Forgiving(x or nowhere) for x in before]
        sys.stdout, sys.stderr = streams
        try:
            yield
        finally:
            for stream in streams:
                _write(stream.plain, "")
            sys.stdout, sys.stderr = before


def _drain(stream: TextIO) -> None:
    """Lead a stream nowhere, with what its buffer holds and all that follows."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file has no such buffer
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def occupy_standard_streams() -> None:
    """Open what is closed of standard input, output and error, so that no file gets its number.

    Whatever a library or a child prints would go into that file otherwise.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a stream shows on a terminal; one that is closed or missing does not.

    >>> is_terminal(None)
    False
    """
    return stream is not None and not stream.closed and stream.isatty()
