"""The folder of one run: what lies where in it, whose it is, and that one process uses it."""

import contextlib
import errno
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ml_collections import ConfigDict

from experiments.errors import CheckpointError, RunError, reason
from experiments.paths import local_path, own_file
from experiments.records.atomic import write_text
from supjax.ticket_io import load_ticket
from supjax.types import Ticket

SEED_PLACE = "{seed}"
"""Stands for the seed in the name of a folder that is given for several runs."""

CONFIG_FILE = "config.json"
"""What a folder of a run is known by."""

PRETRAINED = "pretrained"
"""Name of the network at the end of the normal phase."""


SELECTED = "selected"
"""Name of the network that a rule of selection took."""

REPAIRED = "repaired"
"""Name of the last superposition with its members' activations."""


def ticket_name(number: int) -> str:
    """Return the name of ticket `number`, from 1."""
    return f"ticket_{number}"


def superposed_name(number: int) -> str:
    """Return the name of the superposition after ticket `number`."""
    return f"superposed_{number}"


class RunFolder:
    """The folder of one seed's run; every name of a file in it is said here.

    Attributes:
      path: the folder.
      config: the run's config, if it is known.

    >>> RunFolder("runs/digits").ticket_file(ticket_name(1)).as_posix()
    'runs/digits/tickets/ticket_1.npz'
    """

    def __init__(self, path: str | Path, config: ConfigDict | None = None) -> None:
        self.path = local_path(path, "the folder of a run")
        self.config = ConfigDict() if config is None else config
        self.config_file = self.path / CONFIG_FILE
        self.checkpoints = self.path / "checkpoints"
        self.metrics_file = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.tickets = self.path / "tickets"
        self.result_file = self.path / "result.npz"
        self.summary_file = self.path / "summary.json"
        self.plots = self.path / "plots"
        self.analysis = self.path / "analysis"
        self.superpositions_file = self.analysis / "superpositions.json"
        self.log_file = self.path / "log.txt"

    def ticket_file(self, name: str) -> Path:
        """Return where the network of that name is kept."""
        return self.tickets / f"{name}.npz"

    def load_ticket(self, name: str) -> Ticket:
        """Return the network of that name.

        Raises:
          CheckpointError: one line, if it cannot be read.
        """
        try:
            return load_ticket(self.ticket_file(name))
        except (OSError, ValueError) as error:
            file = self.ticket_file(name)
            line = reason(error)
            raise CheckpointError(line if str(file) in line else f"{file}: {line}") from error

    def tie(self) -> None:
        """Tie the folder to the config: write config.json the first time, compare with it later.

        The group `runtime` may differ: it does not change what is computed.

        Raises:
          CheckpointError: if the folder belongs to another config, with a line for every field
            that differs, or cannot be read or written.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     RunFolder(folder, ConfigDict({"optimizer": {"momentum": 0.9}})).tie()
        ...     RunFolder(folder, ConfigDict({"optimizer": {"momentum": 0.8}})).tie()
        Traceback (most recent call last):
          ...
        experiments.errors.CheckpointError: ... belongs to another config:
        optimizer.momentum: 0.9 in the workdir, 0.8 given
        """
        given = json.loads(json.dumps(self.config.to_dict()))
        try:
            if not self.config_file.exists():
                write_text(self.config_file, json.dumps(given, indent=2) + "\n")
                return
            before = _fields(json.loads(self.config_file.read_text(encoding="utf-8")))
        except (AttributeError, OSError, ValueError) as error:  # the first: JSON, but no groups
            raise CheckpointError(f"cannot use {self.config_file}: {reason(error)}") from error
        now = _fields(given)
        lines = [
            f"{name}: {before.get(name, 'nothing')} in the workdir, "
            f"{now.get(name, 'nothing')} given"
            for name in sorted(before | now)
            if before.get(name) != now.get(name)
        ]
        if lines:
            raise CheckpointError("\n".join([f"{self.path} belongs to another config:", *lines]))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the lock ends with the process at the latest.

        It is a lock on config.json, which stays as it is.

        Raises:
          RunError: if another process holds it. File systems without locks are not guarded.
        """
        with open(self.config_file, "rb", opener=own_file) as file:
            if not take_lock(file):
                raise RunError(f"{self.path} is in use by another process")
            yield

    def clear_unfinished(self) -> None:
        """Remove the ticket files that an earlier process was killed in the middle of."""
        for folder in (self.path, self.tickets):
            for path in folder.glob(".*.npz.*.tmp"):
                path.unlink(missing_ok=True)


def take_lock(file: IO[bytes]) -> bool:
    """Lock an open file, until it is closed; return False if another process holds the lock.

    File systems without locks are not guarded.

    Raises:
      OSError: if the file cannot be locked for another reason.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def _fields(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return `group.field -> JSON text`, without the group `runtime`."""
    fields: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            fields |= _fields(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = json.dumps(value)
    return {name: text for name, text in fields.items() if not name.startswith("runtime.")}
