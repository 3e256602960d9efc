"""Checkpoints of sparse training and files of tickets, against saving the dense arrays.

    python -m benchmarks.checkpointing [--toy] [--output runs/benchmarks/checkpointing.json]

The state is that of training ImageNet ResNet-50 (25.5 M weights) with momentum. A sparse one, at
90 % sparsity with its masks, goes through the run's own `Checkpoints`; a dense one through orbax's
`StandardCheckpointer`, in turn. A save replaces the one before and is complete on disk when it
returns (both flush their files); a restore reads what the system still holds in memory. Then the
file of a ticket at 80, 90 and 95 % sparsity, beside `numpy.savez_compressed` of the same weights
with its flush. Sizes are those of the files. Ratios of time are the dense way's over ours. About 2
minutes on 2 CPU cores.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

import supjax
from benchmarks.common import Timing, milliseconds, print_table, time_interleaved, write_json
from benchmarks.shapes import random_network
from experiments.checkpoints.manager import Checkpoints
from supjax.training import TrainState

SPARSE, DENSE = "sparse, Checkpoints", "dense, orbax"
OURS, NUMPY = "save_ticket", "savez_compressed"
SPARSITY, TICKET_SPARSITIES = 0.9, (0.8, 0.9, 0.95)

Call = Callable[[], Any]


def training_state(params: Any, method: str, **options: Any) -> TrainState:
    """A state with momentum, as training leaves it."""
    tx = optax.sgd(0.1, momentum=0.9)
    topology = supjax.make_topology(method, **options)
    stats = jax.tree.map(jnp.zeros_like, {name: leaves["bias"] for name, leaves in params.items()})
    state = supjax.create_train_state(
        jax.random.key(0), params, tx, topology, batch_stats={"mean": stats, "variance": stats}
    )
    return state._replace(opt_state=tx.update(state.params, state.opt_state, state.params)[1])


class SparseCheckpoints:
    """Our way: every save is the newest step and takes the place of the one before."""

    def __init__(self, folder: Path, state: TrainState) -> None:
        self.folder, self.state, self.step = folder, state, 0
        self.checkpoints = Checkpoints(folder, keep=1)

    def save(self) -> None:
        """Write the state."""
        self.step += 1
        self.checkpoints.save(self.step, self.state, {})

    def restore(self) -> Any:
        """Read it back."""
        restored = self.checkpoints.restore_latest(self.state)
        assert restored is not None
        return restored[0]


class DenseCheckpoints:
    """Plain orbax."""

    def __init__(self, folder: Path, state: TrainState) -> None:
        self.folder, self.state = folder, state
        self.checkpointer = ocp.StandardCheckpointer()

    def save(self) -> None:
        """Write the state."""
        self.checkpointer.save(self.folder / "state", self.state, force=True)
        self.checkpointer.wait_until_finished()

    def restore(self) -> Any:
        """Read it back."""
        return self.checkpointer.restore(self.folder / "state", self.state)


def ticket_calls(params: Any, sparsity: float, folder: Path) -> tuple[dict[str, Call], ...]:
    """Contender -> function, for writing and for reading a ticket."""
    masks = supjax.init_masks(jax.random.key(1), params, 1 - sparsity)
    weights = jax.device_get(supjax.apply_masks(params, masks))
    ticket = supjax.Ticket(weights, jax.device_get(masks))
    arrays = {
        f"{layer}.{name}".replace("/", "."): leaf
        for layer, leaves in weights.items()
        for name, leaf in leaves.items()
    }

    def numpy_save() -> None:
        with open(folder / NUMPY, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())

    def numpy_load() -> dict[str, np.ndarray]:
        with np.load(folder / NUMPY) as archive:
            return dict(archive)

    return (
        {OURS: lambda: supjax.save_ticket(folder / OURS, ticket), NUMPY: numpy_save},
        {OURS: lambda: supjax.load_ticket(folder / OURS), NUMPY: numpy_load},
    )


def file_bytes(folder: Path) -> int:
    """Sizes of all files in a folder, or of one file."""
    files = folder.rglob("*") if folder.is_dir() else [folder]
    return sum(path.stat().st_size for path in files if path.is_file())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpointing")
    parser.add_argument("--toy", action="store_true", help="a small network, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/checkpointing.json"))
    parser.add_argument("--folder", type=Path, help="where to write; else a temporary folder")
    flags = parser.parse_args(arguments)
    repetitions, budget = (3, 1.0) if flags.toy else (10, 15.0)
    times: dict[str, dict[str, Timing]] = {}
    sizes: dict[str, dict[str, int]] = {}
    params = random_network(flags.toy)
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        print("timing checkpoints", file=sys.stderr)
        folder = Path(name)
        ways: dict[str, SparseCheckpoints | DenseCheckpoints] = {
            SPARSE: SparseCheckpoints(
                folder / "sparse", training_state(params, "rigl", density=1 - SPARSITY)
            ),
            DENSE: DenseCheckpoints(folder / "dense", training_state(params, "dense")),
        }
        times["checkpoint, save"] = time_interleaved(
            {name: way.save for name, way in ways.items()}, repetitions, budget
        )
        times["checkpoint, restore"] = time_interleaved(
            {name: way.restore for name, way in ways.items()}, repetitions, budget
        )
        sizes["checkpoint"] = {name: file_bytes(way.folder) for name, way in ways.items()}
        for way in ways.values():
            shutil.rmtree(way.folder)
        dense = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        for sparsity in TICKET_SPARSITIES:
            case = f"ticket at {100 * sparsity:.0f} %"
            print("timing", case, file=sys.stderr)
            saving, loading = ticket_calls(params, sparsity, folder)
            times[f"{case}, save"] = time_interleaved(saving, repetitions, budget / 3)
            times[f"{case}, load"] = time_interleaved(loading, repetitions, budget / 3)
            written = {name: file_bytes(folder / name) for name in saving}
            sizes[case] = {**written, "dense float32": dense}
    ratios = {
        f"{case}, seconds: {theirs} / {ours}": taken[theirs].median / taken[ours].median
        for case, taken in times.items()
        for ours, theirs in [list(taken)]
    }
    for case, found in sizes.items():
        ours, *others = found
        ratios |= {f"{case}, bytes: {ours} / {name}": found[ours] / found[name] for name in others}
    print("Milliseconds, median (least to most), and megabytes")
    print_table(
        ["", "", "median", "least to most"],
        [
            [case, name, *milliseconds(t)]
            for case, taken in times.items()
            for name, t in taken.items()
        ],
    )
    print_table(
        ["", "", "MB"],
        [
            [case, name, f"{size / 1e6:.2f}"]
            for case, found in sizes.items()
            for name, size in found.items()
        ],
    )
    print_table(["ratio", ""], [[name, f"{ratio:.3f}"] for name, ratio in ratios.items()])
    write_json(flags.output, {"seconds": times, "bytes": sizes, "ratios": ratios})


if __name__ == "__main__":
    main()
