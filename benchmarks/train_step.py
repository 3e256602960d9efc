"""Sparse training steps beside dense ones, and the memory that they take.

    python -m benchmarks.train_step [--toy] [--networks resnet32,...] [--methods rigl,... or all]
        [--batch_size N] [--image_side N] [--output runs/benchmarks/train_step.json]

For every network: the dense step, written with optax alone, beside supjax's regular step and its
topology step, SGD with momentum and weight decay, float32, random images on the device, buffers
donated. The steps alternate, and a ratio is the median over neighbouring pairs. A method enters
the regular step by its state and its `observe` alone, and the topology step by its `update` as
well; methods whose compiled steps are the same program are measured once. Methods without a grow
rule explore as in the main job.

Without flags, an accelerator runs every method at full batches; a CPU runs every method on
ResNet-32 and RigL alone on the others, with smaller batches and 64 x 64 images for ImageNet. That
is stricter: the cost of sparsity depends neither on the batch nor on the images, and the dense step
shrinks with both. Where the device counts its memory, the peak of one step of each kind comes from
processes of their own, before all else. About 15 minutes on 2 CPU cores.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.common import chosen, print_table, write_json
from benchmarks.loops import Loop, seconds, time_pairs
from benchmarks.memory import peak_device_bytes
from benchmarks.training import EXAMPLE, Training, method_groups, tree_bytes
from supjax.topologies import METHODS

DENSE, REGULAR, TOPOLOGY = "dense", "regular step", "topology step"


class Workload(NamedTuple):
    """A network and its usual input.

    Attributes:
      classes: number of logits.
      side: of the square images.
      batch_size: where there is an accelerator.
      cpu: side and batch size on a CPU.
      cpu_methods: that a CPU runs when none are asked for.
    """

    classes: int
    side: int
    batch_size: int
    cpu: tuple[int, int]
    cpu_methods: tuple[str, ...] = (EXAMPLE,)


EVERY = tuple(METHODS)
NETWORKS = {
    "resnet32": Workload(10, 32, 128, cpu=(32, 64), cpu_methods=EVERY),
    "vgg16": Workload(10, 32, 128, cpu=(32, 64)),
    "resnet50": Workload(100, 32, 128, cpu=(32, 16)),
    "imagenet_resnet50": Workload(1000, 224, 32, cpu=(64, 32)),
}
TOY = {"lenet_300_100": Workload(10, 8, 2, cpu=(8, 2), cpu_methods=EVERY)}


def make_training(name: str, flags: argparse.Namespace) -> Training:
    """Return the training of a network at the size that flags and device ask for."""
    workload = (TOY if flags.toy else NETWORKS)[name]
    on_cpu = jax.default_backend() == "cpu"
    side, batch_size = workload.cpu if on_cpu else (workload.side, workload.batch_size)
    return Training(
        name,
        workload.classes,
        flags.image_side or side,
        flags.batch_size or batch_size,
        width=0.05 if flags.toy else 1.0,
    )


def methods_of(name: str, flags: argparse.Namespace) -> Sequence[str]:
    """Return the methods to measure on a network."""
    if flags.methods and flags.methods != "all":
        return flags.methods.split(",")
    if flags.methods or jax.default_backend() != "cpu":
        return EVERY
    return (TOY if flags.toy else NETWORKS)[name].cpu_methods


def make_loop(training: Training, kind: str, method: str) -> Loop:
    """Return the loop of a kind of step."""
    if kind == DENSE:
        return Loop(*training.dense())
    return Loop(*(training.regular(method) if kind == REGULAR else training.topology(method)))


def measure(
    training: Training, methods: Sequence[str], most: int, budget: float
) -> Iterator[dict[str, Any]]:
    """Yield a row of results for every program of the methods, beside the dense step."""
    dense = make_loop(training, DENSE, "")
    dense()
    dense.steps = steps = min(20, max(1, int(0.2 / seconds(dense))))  # several where they are short
    for kind, share in ((REGULAR, 1.0), (TOPOLOGY, 0.5)):
        moving = kind == TOPOLOGY
        for group in method_groups(training, methods, moving=moving):
            print(f"{training.name}: {kind}, {group[0]}", file=sys.stderr)
            sparse = make_loop(training, kind, group[0])
            sparse.steps = steps
            pairs = time_pairs(dense, sparse, most=most, budget=share * budget).over(steps)
            state = sparse.state
            yield {
                "network": training.name,
                "step": kind,
                "methods": group,
                **pairs.summary(),
                "bytes": {
                    "params": tree_bytes(state.params),
                    "optimizer": tree_bytes(state.opt_state),
                    "masks": tree_bytes(state.topology.masks),
                    "topology": tree_bytes(state.topology),
                    "temporary_dense": dense.temporary_bytes,
                    "temporary": sparse.temporary_bytes,
                },
            }


def peaks_of(name: str, flags: argparse.Namespace) -> dict[str, int]:
    """Return the peak device memory of a step of each kind; nothing where none is counted."""
    prepare = partial(prepare_step, name, flags)
    found = {}
    for kind in (DENSE, REGULAR, TOPOLOGY):
        peak = peak_device_bytes(prepare, kind)
        if peak is None:
            return {}
        found[kind] = peak
    return found


def prepare_step(name: str, flags: argparse.Namespace, kind: str) -> Callable[[], Any]:
    """Return a loop, in a process of its own."""
    return make_loop(make_training(name, flags), kind, EXAMPLE)


def ratios_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the ratios of all steps by network, kind and method, and those of memory."""
    ratios = {}
    for row in rows:
        for method in row["methods"]:
            ratios[f"{row['network']}, {row['step']}, {method}"] = row["ratio"]
        held = row["bytes"]
        ratios[f"{row['network']}, masks over params"] = held["masks"] / held["params"]
    return ratios


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step")
    parser.add_argument("--toy", action="store_true", help="three narrow layers and all methods")
    parser.add_argument("--networks", help=f"of {','.join(NETWORKS)}; default: all")
    parser.add_argument("--methods", help=f"'all', or of {','.join(METHODS)}")
    parser.add_argument("--batch_size", type=int, help="of all networks")
    parser.add_argument("--image_side", type=int, help="of all networks")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds a program")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/train_step.json"))
    flags = parser.parse_args(arguments)
    networks = chosen(parser, "network", flags.networks, TOY if flags.toy else NETWORKS)
    chosen(parser, "method", flags.methods, ("all", *METHODS))
    peaks = {} if flags.toy else {name: peaks_of(name, flags) for name in networks[:1]}
    if any(peaks.values()):
        peaks |= {name: peaks_of(name, flags) for name in networks[1:]}
    most, budget = (3, 0.0) if flags.toy else (200, flags.budget)
    inputs: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for name in networks:
        training = make_training(name, flags)
        inputs[name] = jnp.shape(training.images)
        rows += measure(training, methods_of(name, flags), most, budget)
    print("Seconds a step, and times the dense one (median over pairs, quartiles)")
    print_table(
        ["", "", "methods", "dense", "sparse", "ratio", "quartiles", "of medians"],
        [
            [
                row["network"],
                row["step"],
                " ".join(row["methods"]),
                f"{row['first']:.4f}",
                f"{row['second']:.4f}",
                f"{row['ratio']:.3f}",
                f"{row['ratio_lower']:.3f} to {row['ratio_upper']:.3f}",
                f"{row['ratio_of_medians']:.3f}",
            ]
            for row in rows
        ],
    )
    print("Megabytes: the state, and what the compiled step takes beside it")
    print_table(
        ["", "", "methods", *rows[0]["bytes"]],
        [
            [row["network"], row["step"], row["methods"][0]]
            + [f"{size / 1e6:.2f}" for size in row["bytes"].values()]
            for row in rows
        ],
    )
    spreads = {
        f"{row['network']}, {row['step']}, {method}": (row["ratio_lower"], row["ratio_upper"])
        for row in rows
        for method in row["methods"]
    }
    results = {"inputs": inputs, "rows": rows, "peak_device_bytes": peaks}
    write_json(flags.output, {"ratios": ratios_of(rows), "spreads": spreads, **results})


if __name__ == "__main__":
    main()
