"""Ends of a run that a user can act on: one line, and an exit status for scripts."""

import os
import signal

from supjax.checks import some

LONGEST = 600
"""Characters of a message at most."""


class RunError(Exception):
    """A run that cannot go on.

    Attributes:
      exit_code: becomes the exit status of the command.
      title: word before the line.
      everywhere: whether all processes of a run raise it at the same moment.
    """

    exit_code = 1
    title = "error"
    everywhere = False


class ConfigError(RunError):
    """Flags or a config that cannot be used; found before anything is compiled."""

    exit_code = 2
    everywhere = True


class CheckpointError(RunError):
    """State cannot be saved or restored, or a folder belongs to another run."""

    exit_code = 4


class DivergedError(RunError):
    """The loss or the weights are no longer finite.

    Attributes:
      seeds: of which runs.
    """

    exit_code = 3
    everywhere = True

    def __init__(self, line: str, seeds: tuple[int, ...]) -> None:
        super().__init__(line)
        self.seeds = seeds


class OutOfStepError(RunError):
    """Seeds that are to train together have come to different steps."""

    def __init__(self, seeds: tuple[int, ...]) -> None:
        super().__init__(
            f"seeds {some(seeds)} have come to different steps and cannot train together"
        )


class InterruptedRunError(RunError):
    """A signal stopped the run after its state was saved; the same command continues it."""

    title = "stopped"
    everywhere = True

    def __init__(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"{name}; saved at step {step}, the same command continues from there")
        self.exit_code = 128 + number


def one_line(error: object) -> str:
    r"""Return a text or an exception as one printable line of bounded length.

    >>> one_line(ValueError("two\nlines\x1b[2J"))
    'two lines?[2J'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def reason(error: Exception) -> str:
    """Return the first line of what an exception says, not too long.

    >>> reason(ValueError("cut short"))
    'cut short'
    """
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        name = os.path.basename(str(error.filename)) + ": " if error.filename else ""
        text = name + error.strerror
    line = text.strip().splitlines()[0]
    return line if len(line) <= 200 else f"{line[:197]}..."
