"""Ticket files that a user names: whatever is wrong with one is told in one line, with its name."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.errors import ConfigError, reason
from experiments.saying import say
from supjax.ticket_io import check_ticket, load_metadata, load_ticket
from supjax.types import PyTree, Ticket


def read_ticket(file: Path, shapes: PyTree, network: str) -> Ticket:
    """Return a ticket that a network can be used with.

    What the file lacks (a digest, in files of version 1) is said in a line on standard error.

    Args:
      file: that `supjax.save_ticket` wrote.
      shapes: shapes and types of the network's variables.
      network: what it is called in an error.

    Returns:
      The ticket, on the nodes of `shapes`.

    Raises:
      ConfigError: one line that names the file and the first leaf that is missing, of another
        shape or type, or holds NaN, infinity or a negative variance.
    """
    like = Ticket(shapes["params"], {}, shapes.get("batch_stats", {}))
    with _told(file, network), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ticket = load_ticket(file, like)
        check_ticket(ticket)
    for warning in said:
        say(f"warning: {warning.message}", to_stderr=True)
    return ticket


def read_metadata(file: Path) -> dict[str, Any]:
    """Return what a ticket's file holds beside the network.

    Raises:
      ConfigError: one line that names the file.
    """
    with _told(file, ""), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `read_ticket` says it
        return load_metadata(file)


@contextlib.contextmanager
def _told(file: Path, network: str) -> Iterator[None]:
    """Turn what a file makes fail into a `ConfigError` of one line that names it."""
    try:
        yield
    except (OSError, TypeError, ValueError) as error:
        line = reason(error) if isinstance(error, OSError) else str(error)
        line = line.replace("`like`", network)
        raise ConfigError(line if str(file) in line else f"{file}: {line}") from error
