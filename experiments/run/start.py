"""What a run of the cyclic phase alone starts from: a ticket file, or a finished run."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

import supjax
from experiments.errors import ConfigError
from experiments.records.folder import PRETRAINED, SEED_PLACE, RunFolder
from experiments.records.summary import is_finished
from experiments.run.given_ticket import read_ticket
from supjax.allocation import budget
from supjax.checks import some
from supjax.types import PyTree, Ticket

FIELD = "sup_tickets.start_from"


class Start(NamedTuple):
    """The networks that the cyclic phase starts from.

    Attributes:
      tickets: one a seed, on the host.
      density: of every one of them.
    """

    tickets: tuple[Ticket, ...]
    density: float


def start_of(folders: Sequence[RunFolder], shapes: PyTree, wanted: float) -> Start | None:
    """Return what the seeds start from, or None if there are no seeds.

    Args:
      folders: one a seed, with configs that have a `sup_tickets.start_from`.
      shapes: shapes and types of the network's variables.
      wanted: the density that the config asks for, which is taken as it is written where it keeps
        as many weights as the networks have.

    Raises:
      ConfigError: one line, if a network is missing, dense, no longer finite or of other layers,
        or the networks keep different numbers of weights.
    """
    tickets = tuple(_ticket(folder, shapes) for folder in folders)
    counts = [(int(supjax.count_active(t.masks)), supjax.count_maskable(t.masks)) for t in tickets]
    if len(set(counts)) > 1:
        found = [kept for kept, _ in counts]
        raise ConfigError(f"{FIELD} must keep as many weights for every seed, got {some(found)}")
    if not counts:
        return None
    [(kept, size)] = set(counts)
    return Start(tickets, wanted if budget(wanted, size) == kept else kept / size)


def start_path(folder: RunFolder) -> Path:
    """Return where the network of one seed comes from, as its config says.

    >>> from ml_collections import ConfigDict
    >>> config = ConfigDict({"seed": 3, "sup_tickets": {"start_from": "runs/seed={seed}"}})
    >>> start_path(RunFolder("runs/cycles", config)).as_posix()
    'runs/seed=3'
    """
    config = folder.config
    return Path(config.sup_tickets.start_from.replace(SEED_PLACE, str(config.seed)))


def _ticket(folder: RunFolder, shapes: PyTree) -> Ticket:
    """Return the network of one seed: the run's own copy, once there is one."""
    own = folder.ticket_file(PRETRAINED)
    file = own if own.exists() else _file(start_path(folder))
    try:
        ticket = read_ticket(file, shapes, "the network")
    except ConfigError as error:
        raise ConfigError(f"{FIELD} cannot be used: {error}") from error
    kept = supjax.count_active(ticket.masks)
    if not 0 < kept < supjax.count_maskable(ticket.masks):
        fault = "is dense" if kept or not jax.tree.leaves(ticket.masks) else "keeps no weight"
        raise ConfigError(f"{FIELD} must be a sparse network, and {file} {fault}")
    return ticket


def _file(path: Path) -> Path:
    """Return the ticket file that a path stands for."""
    if path.is_file():
        return path
    run = RunFolder(path)
    if not run.config_file.exists():
        raise ConfigError(
            f"{FIELD} must be a ticket file or the folder of a run, and there is none at {path}"
        )
    if not is_finished(path):
        raise ConfigError(f"{FIELD} must be a finished run, and {path} is not finished")
    return run.ticket_file(PRETRAINED)
