"""How the cost of a topology update and of a superposition grows with the network.

    python -m benchmarks.growth [--toy] [--output runs/benchmarks/growth.json]

One layer of every shape that ResNet-50 has, with all channels scaled so that the weights are 0.1
to 100 millions: RigL's update of the masks, and the superposition of four tickets as a run makes
it, by three folds of `supjax.superpose_step`. Both compiled, buffers of the state donated. The
fit `seconds = a * weights ** b` by least squares on logarithms says how linear that is, over all
sizes and over those from a million weights up, as dispatch dominates below. The largest size takes
about 4 GB. About 2 minutes on 2 CPU cores, most of it compilation.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import supjax
from benchmarks.common import Timing, milliseconds, print_table, time_interleaved, write_json
from benchmarks.loops import Loop
from benchmarks.shapes import resnet50_kernels

DENSITY, DROP, TICKETS = 0.1, 0.3, 4
UPDATE, SUPERPOSITION = "topology update", f"superposition of {TICKETS} tickets"
SIZES = (0.1, 0.3, 1, 3, 10, 30, 100)
"""Millions of weights."""

Shapes = dict[str, tuple[int, ...]]


def scaled_shapes(weights: float) -> Shapes:
    """Return the different kernel shapes of ResNet-50 with channels scaled to so many weights."""
    different = {shape: name for name, shape in resnet50_kernels().items()}
    factor = math.sqrt(weights / sum(map(math.prod, different)))
    colors = 3

    def scaled(channels: int) -> int:
        return channels if channels == colors else max(1, round(factor * channels))

    return {name: (*shape[:-2], *map(scaled, shape[-2:])) for shape, name in different.items()}


class Network:
    """Random weights, gradients and masks."""

    def __init__(self, shapes: Shapes) -> None:
        """Draw them."""
        self._generator, self._shapes = np.random.default_rng(0), shapes

    def weights(self) -> dict[str, jax.Array]:
        """New normal numbers."""
        return {
            name: jnp.asarray(self._generator.standard_normal(shape, np.float32))
            for name, shape in self._shapes.items()
        }

    def ticket(self) -> supjax.Ticket:
        """New weights under new masks."""
        masks = {
            name: jnp.asarray(self._generator.random(shape, np.float32) < DENSITY)
            for name, shape in self._shapes.items()
        }
        return supjax.Ticket(supjax.apply_masks(self.weights(), masks), masks)

    def update(self) -> Callable[[], Any]:
        """Return a function that moves the masks; the weights stay."""
        method = supjax.make_topology("rigl", density=DENSITY)
        ticket = self.ticket()

        def step(state: Any, data: Any) -> Any:
            key, grads, params, index, rate = data
            return method.update(key, grads, state, params, index, drop_fraction=rate)

        state = supjax.TopologyState(ticket.masks, ticket.masks)
        numbers = jnp.int32(0), jnp.float32(DROP)
        return Loop(step, state, (jax.random.key(0), self.weights(), ticket.params, *numbers))

    def superposition(self) -> Callable[[], Any]:
        """Return a function that folds as many tickets in as follow the first."""

        def step(state: Any, ticket: Any) -> Any:
            running, count = state
            return supjax.superpose_step(running, ticket, count), count + 1

        fold = Loop(step, (self.ticket(), jnp.int32(1)), self.ticket())
        fold.steps = TICKETS - 1
        return fold


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return a and b of `seconds = a * sizes ** b`.

    >>> a, b = fit([1.0, 10.0, 100.0], [2.0, 20.0, 200.0])
    >>> round(a, 6), round(b, 6)
    (2.0, 1.0)
    """
    slope, intercept = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return math.exp(intercept), float(slope)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--toy", action="store_true", help="two layers of two small sizes")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/growth.json"))
    flags = parser.parse_args(arguments)
    sizes, repetitions, budget = ((0.01, 0.02), 3, 0.0) if flags.toy else (SIZES, 100, 5.0)
    times: dict[int, dict[str, Timing]] = {}
    for millions in sizes:
        shapes = scaled_shapes(1e6 * millions)
        if flags.toy:
            shapes = dict(list(shapes.items())[-2:])
        weights = sum(map(math.prod, shapes.values()))
        print(f"compiling {weights:,} weights", file=sys.stderr)
        network = Network(shapes)
        functions = {UPDATE: network.update(), SUPERPOSITION: network.superposition()}
        times[weights] = time_interleaved(functions, repetitions, budget)
    print("Milliseconds, median (least to most), and nanoseconds a weight")
    print_table(
        ["weights", "", "median", "least to most", "ns a weight"],
        [
            [
                f"{weights:,}",
                name,
                *milliseconds(timing, digits=2),
                f"{1e9 * timing.median / weights:.2f}",
            ]
            for weights, taken in times.items()
            for name, timing in taken.items()
        ],
    )
    fits = fits_of(times, least=0 if flags.toy else 990_000)
    print("Fits of seconds = a * weights ** b")
    print_table(["", "a", "b"], [[name, f"{a:.3e}", f"{b:.3f}"] for name, (a, b) in fits.items()])
    smallest, *_, largest = [size for size in times if flags.toy or size > 990_000]
    ratios = {
        f"{name}, time a weight at {largest:,} over that at {smallest:,}": (
            times[largest][name].median / largest / (times[smallest][name].median / smallest)
        )
        for name in (UPDATE, SUPERPOSITION)
    }
    exponents = {name: b for name, (_, b) in fits.items()}
    write_json(flags.output, {"ratios": ratios, "exponents": exponents, "seconds": times})


def fits_of(times: dict[int, dict[str, Timing]], least: int) -> dict[str, tuple[float, float]]:
    """Return the fits over all sizes and over the large ones, by name."""
    fits = {}
    for name in (UPDATE, SUPERPOSITION):
        for label, sizes in (
            ("all sizes", list(times)),
            ("large sizes", [size for size in times if size >= least]),
        ):
            fits[f"{name}, {label}"] = fit(sizes, [times[size][name].median for size in sizes])
    return fits


if __name__ == "__main__":
    main()
