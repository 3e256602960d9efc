"""An orbax handler that writes one npz, in the calling thread."""

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

FILE = "state.npz"


class NpzHandler(ocp.CheckpointHandler):
    """Saves and restores a flat dict of arrays.

    Orbax's own array handlers write from many threads: on a full disk or a damaged file every one
    of them prints a traceback of its own. Here the caller gets one exception, and a CRC-32 of
    every array is checked when it is read.
    """

    def save(self, directory: Path, args: "NpzSave") -> None:
        """Write the arrays and wait until they are on disk."""
        buffer = io.BytesIO()
        np.savez(buffer, **args.arrays)
        with open(directory / FILE, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())

    def restore(self, directory: Path, args: "NpzRestore") -> dict[str, np.ndarray]:
        """Read the arrays; any exception means that they are not what was written."""
        del args
        with open(directory / FILE, "rb") as file, np.load(file) as archive:
            return dict(archive)


@ocp.args.register_with_handler(NpzHandler, for_save=True)
@dataclasses.dataclass
class NpzSave(ocp.args.CheckpointArgs):
    """What to save: arrays of NumPy's own dtypes by name; no name may be "file"."""

    arrays: dict[str, Any]


@ocp.args.register_with_handler(NpzHandler, for_restore=True)
@dataclasses.dataclass
class NpzRestore(ocp.args.CheckpointArgs):
    """Nothing to say about a restore: all arrays come back."""
