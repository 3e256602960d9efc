"""What sparse training costs on top of an optimizer step.

    python -m benchmarks.sparsify_overhead [--toy] [--output runs/benchmarks/sparsify_overhead.json]

The 25.6 M weights of ResNet-50 under given gradients: the plain optimizer, and the same
wrapped with `supjax.sparsify`, at steps without a topology update and at steps with one. All are
compiled with donated buffers. JaxPruner's SET and RigL cost 5 to 6 plain optimizer steps at every
step. Whole training steps are in `benchmarks.train_step`. About 4 minutes on 2 CPU cores, most of
it compilation.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import supjax
from benchmarks.common import Timing, milliseconds, print_table, time_interleaved, write_json
from benchmarks.shapes import random_network

DENSITY, EVERY = 0.1, 1000
OPTIMIZERS = {
    "SGD, momentum": optax.sgd(0.1, momentum=0.9),
    "AdamW": optax.adamw(1e-3),
}
METHODS = ("set", "rigl")
PLAIN = "plain"


class Weights:
    """Weights and optimizer state that all contenders step in turn, so that memory is the same."""

    def __init__(self, tx: Any, params: Any) -> None:
        """Copy the weights."""
        self.params = jax.tree.map(jnp.copy, params)
        self.inner = tx.init(self.params)
        self.grads = jax.tree.map(lambda leaf: 1e-3 * leaf[..., ::-1], params)


def plain_step(tx: Any, weights: Weights) -> Callable[[], Any]:
    """Return a function that takes a step of the plain optimizer."""

    def step(params: Any, inner: Any, grads: Any) -> Any:
        updates, inner = tx.update(grads, inner, params)
        return optax.apply_updates(params, updates), inner

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*vars(weights).values()).compile()

    def call() -> Any:
        weights.params, weights.inner = compiled(weights.params, weights.inner, weights.grads)
        return weights.params, weights.inner

    return call


def sparse_steps(tx: Any, weights: Weights, indices: Sequence[int]) -> list[Callable[[], Any]]:
    """Return functions that take a step of a sparse optimizer, at these indices of the run."""

    def step(params: Any, inner: Any, grads: Any, state: Any, index: Any) -> Any:
        state = state._replace(inner=inner, step=index)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state.inner, state._replace(inner=())

    state = tx.init(weights.params)._replace(inner=())
    compiled = (
        jax.jit(step, donate_argnums=(0, 1, 3))
        .lower(*vars(weights).values(), state, jnp.int32(0))
        .compile()
    )

    def call(index: jax.Array) -> Any:
        nonlocal state
        weights.params, weights.inner, state = compiled(*vars(weights).values(), state, index)
        return weights.params, weights.inner, state

    return [partial(call, jnp.int32(index)) for index in indices]


def optimizer_steps(name: str, params: Any) -> dict[str, Callable[[], Any]]:
    """The plain step of an optimizer, and for every method steps without and with an update."""
    weights = Weights(OPTIMIZERS[name], params)
    functions = {PLAIN: plain_step(OPTIMIZERS[name], weights)}
    for method in METHODS:
        topology = supjax.make_topology(method, density=DENSITY, update_every=EVERY)
        tx = supjax.sparsify(OPTIMIZERS[name], topology, jax.random.key(0))
        regular, moving = sparse_steps(tx, weights, [0, EVERY - 1])
        functions |= {method: regular, f"{method}, with an update": moving}
    return functions


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparsify_overhead")
    parser.add_argument("--toy", action="store_true", help="small networks, to see that it runs")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks/sparsify_overhead.json")
    )
    flags = parser.parse_args(arguments)
    repetitions, budget = (3, 1.0) if flags.toy else (200, 20.0)
    times: dict[str, dict[str, Timing]] = {}
    params = random_network(flags.toy)
    for name in OPTIMIZERS:
        print(f"compiling {name}", file=sys.stderr)
        times[name] = time_interleaved(optimizer_steps(name, params), repetitions, budget)
    print("Milliseconds a step, median (least to most), and times the plain one")
    print_table(
        ["", "", "median", "least to most", "times plain", "least times least"],
        [
            [
                workload,
                contender,
                *milliseconds(timing),
                f"{timing.median / taken[PLAIN].median:.3f}",
                f"{timing.least / taken[PLAIN].least:.3f}",
            ]
            for workload, taken in times.items()
            for contender, timing in taken.items()
        ],
    )
    ratios = {
        f"{workload}, {contender}": timing.median / taken[PLAIN].median
        for workload, taken in times.items()
        for contender, timing in taken.items()
        if contender != PLAIN
    }
    write_json(flags.output, {"seconds": times, "ratios": ratios})


if __name__ == "__main__":
    main()
