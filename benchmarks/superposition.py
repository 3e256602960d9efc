"""Superposing tickets of ImageNet ResNet-50 size, against a copy of their bytes.

    python -m benchmarks.superposition [--toy] [--output runs/benchmarks/superposition.json]

`supjax.superpose` folds 2, 4 and 8 tickets of 25.5 M weights, at 90 and 95 % sparsity, and prunes
the mean back after each fold. Beside it stand two copies of all the tickets' weights (masks not
counted): `numpy.copyto` into memory that is already there, and the compiled `jnp.copy`, which like
superposition makes new arrays on the tickets' device with all its threads. The second is what the
target is taken from. Then the parts of one fold are timed alone, each compiled: the mean, the
selection of the largest magnitudes, and applying its masks. On CPU the peak memory of a call is
measured too, each in a process of its own. About 2 minutes on 2 CPU cores.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import supjax
from benchmarks.common import (
    Timing,
    milliseconds_cell,
    print_table,
    ratio_spread,
    time_interleaved,
    write_json,
)
from benchmarks.memory import added_bytes
from benchmarks.shapes import kernel_shapes
from supjax.selection import largest_weight_masks
from supjax.superposition.averaging import running_mean

OURS, NUMPY_COPY, JNP_COPY = "superpose", "numpy copy", "jnp copy"
SPARSITIES = (0.9, 0.95)


def make_ticket(seed: int, sparsity: float, toy: bool) -> supjax.Ticket:
    """A network whose every kernel keeps so many random weights."""
    generator = np.random.default_rng(seed)

    def kernel(shape: tuple[int, ...]) -> np.ndarray:
        kept = generator.random(shape, np.float32) >= sparsity
        return kept * generator.standard_normal(shape, np.float32)

    params = {name: jnp.asarray(kernel(shape)) for name, shape in kernel_shapes(toy).items()}
    return supjax.Ticket(params, jax.tree.map(lambda weight: weight != 0, params))


def contenders(tickets: list[supjax.Ticket]) -> dict[str, Callable[[], Any]]:
    """The superposition of these tickets and the two copies of their weights."""
    params = [ticket.params for ticket in tickets]
    on_host = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    targets = [np.zeros_like(leaf) for leaf in on_host]

    def numpy_copy() -> None:
        for target, leaf in zip(targets, on_host, strict=True):
            np.copyto(target, leaf)

    copy = jax.jit(lambda leaves: [jnp.copy(leaf) for leaf in leaves])
    leaves = jax.tree.leaves(params)
    return {
        OURS: lambda: supjax.superpose(tickets),
        NUMPY_COPY: numpy_copy,
        JNP_COPY: lambda: copy(leaves),
    }


def parts(first: supjax.Ticket, second: supjax.Ticket) -> dict[str, Callable[[], Any]]:
    """What one fold consists of, each part compiled alone."""
    mean = jax.jit(running_mean)
    keep = supjax.count_active(second.masks)
    folded = mean(first.params, second.params, 0.5)
    masks = largest_weight_masks(folded, keep)
    apply = jax.jit(supjax.apply_masks)
    fold = jax.jit(supjax.superpose_step)
    return {
        "whole fold": lambda: fold(first, second, 1),
        "mean": lambda: mean(first.params, second.params, 0.5),
        "selection": lambda: largest_weight_masks(folded, keep),
        "applying masks": lambda: apply(folded, masks),
    }


def prepare(number: int, sparsity: float, toy: bool) -> Callable[[], Any]:
    """A superposition whose functions are compiled, on tickets that it holds."""
    tickets = [make_ticket(seed, sparsity, toy) for seed in range(number)]
    jax.block_until_ready(supjax.superpose(tickets[:2]))
    return lambda: supjax.superpose(tickets)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.superposition")
    parser.add_argument("--toy", action="store_true", help="a small network, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/superposition.json"))
    flags = parser.parse_args(arguments)
    repetitions, budget = (3, 1.0) if flags.toy else (20, 8.0)
    numbers = (2, 4) if flags.toy else (2, 4, 8)
    times: dict[str, dict[str, Timing]] = {}
    for sparsity in SPARSITIES:
        tickets = [make_ticket(seed, sparsity, flags.toy) for seed in range(max(numbers))]
        for number in numbers:
            case = f"{number} tickets at {100 * sparsity:.0f} %"
            print("timing", case, file=sys.stderr)
            times[case] = time_interleaved(contenders(tickets[:number]), repetitions, budget)
    part_times = time_interleaved(parts(*tickets[:2]), repetitions, budget)
    ratios = {
        f"{case}, times a {copy}": taken[OURS].median / taken[copy].median
        for case, taken in times.items()
        for copy in (NUMPY_COPY, JNP_COPY)
    }
    spreads = {
        f"{case}, times a {copy}": ratio_spread(taken[OURS], taken[copy])
        for case, taken in times.items()
        for copy in (NUMPY_COPY, JNP_COPY)
    }
    print("Milliseconds, median (least to most), and times the copies")
    print_table(
        ["", OURS, NUMPY_COPY, JNP_COPY, f"times {NUMPY_COPY}", f"times {JNP_COPY}"],
        [
            [case, *map(milliseconds_cell, taken.values())]
            + [f"{ratios[f'{case}, times a {copy}']:.2f}" for copy in (NUMPY_COPY, JNP_COPY)]
            for case, taken in times.items()
        ],
    )
    print(f"The parts of a fold at {100 * SPARSITIES[-1]:.0f} %, milliseconds")
    print_table(
        ["", "median (least to most)"], [[n, milliseconds_cell(t)] for n, t in part_times.items()]
    )
    memory = {}
    if jax.default_backend() == "cpu":
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(tickets[0].params))
        for number in numbers[:1] if flags.toy else numbers:
            memory[str(number)] = added_bytes(prepare, number, SPARSITIES[0], flags.toy)
        print(f"Peak memory of a call beyond its tickets, times the {weights:,} bytes of one")
        print_table(
            ["tickets", "added"], [[n, f"{added / weights:.2f}"] for n, added in memory.items()]
        )
    write_json(
        flags.output,
        {
            "seconds": times,
            "seconds_of_a_fold": part_times,
            "added_bytes": memory,
            "ratios": ratios,
            "spreads": spreads,
        },
    )


if __name__ == "__main__":
    main()
