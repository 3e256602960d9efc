"""What a class of the fuzz is, and how a refusal is judged."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

from tests.experiments.data.fuzz import Outcome

Attempt = Callable[[int, random.Random], Outcome]
"""`(number, random numbers of this try) -> what came of it`."""

Start = Callable[[Path], contextlib.AbstractContextManager[Attempt]]
"""`folder -> attempt`; the folder is there until the context ends."""


def one_line(error: Exception, *named: str, most: int = 1000) -> Outcome:
    """Judge a refusal: one printable line of bounded length that holds the words."""
    text = str(error)
    clean = text.isprintable() and len(text) <= most and all(word in text for word in named)
    return Outcome(clean, f"{type(error).__name__}: {text}")


def bad(error: Exception) -> Outcome:
    """Judge any other exception, which would be a traceback."""
    return Outcome(False, f"{type(error).__name__}: {error}")
