"""What is printed is never part of the work."""

import contextlib
import os
import sys
from typing import TextIO

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
    if stream is None:  # closed before Python started
        return
    try:
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError as error:
            plain = text.translate(PLAIN).encode(error.encoding, "backslashreplace")
            stream.write(plain.decode(error.encoding) + "\n")
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: it has been closed since
        _drain(stream)
        if stream is not sys.stderr and not isinstance(error, BrokenPipeError):
            why = error.strerror if isinstance(error, OSError) else None
            say(f"output is not shown: {why or error}", to_stderr=True)


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


def settle_standard_streams() -> None:
    """Write out what libraries have printed, so that the exit of Python cannot fail at it.

    >>> settle_standard_streams()
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                _drain(stream)


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a stream shows on a terminal; one that is closed or missing does not.

    >>> is_terminal(None)
    False
    """
    return stream is not None and not stream.closed and stream.isatty()
