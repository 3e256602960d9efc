"""What sparse training costs on top of an optimizer step.

    python -m benchmarks.sparsify_overhead [--toy] [--output runs/benchmarks/sparsify_overhead.json]

The 25.6 M weights of ResNet-50 under given gradients: the plain optimizer, and the same
wrapped with `supjax.sparsify`, at steps without a topology update and at steps with one, and with
`supjax.sup_tickets`, at steps without and with a fold of the network into the superposition. Then
whole training steps of a small network at batch 128, dense and with either, back to back in pairs.
All are compiled with donated buffers. JaxPruner's SET and RigL cost 5 to 6 plain optimizer steps at
every step. Training steps of the main job are in `benchmarks.train_step`. About 6 minutes on 2 CPU
cores, most of it compilation.
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
from benchmarks.loops import Loop, time_pairs
from benchmarks.shapes import random_network
from benchmarks.training import Training

DENSITY, EVERY = 0.1, 1000
OPTIMIZERS = {
    "SGD, momentum": optax.sgd(0.1, momentum=0.9),
    "AdamW": optax.adamw(1e-3),
}
METHODS = ("set", "rigl")
PLAIN = "plain"
PLAN = supjax.CyclePlan(normal_steps=2 * EVERY + 1, cycle_steps=EVERY, num_cycles=2)
"""Of `sup_tickets`; the last step of the normal phase folds the network and moves no mask."""

WHOLE = "rigl in sup_tickets"


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
    regular, folding = sparse_steps(
        in_sup_tickets(OPTIMIZERS[name]), weights, [0, PLAN.normal_steps - 1]
    )
    return functions | {WHOLE: regular, f"{WHOLE}, with a fold": folding}


def in_sparsify(tx: Any) -> Any:
    """Return RigL around an optimizer."""
    topology = supjax.make_topology("rigl", density=DENSITY, update_every=EVERY)
    return supjax.sparsify(tx, topology, jax.random.key(0))


def in_sup_tickets(tx: Any) -> Any:
    """Return the whole method around an optimizer."""
    topology = supjax.make_topology("rigl", density=DENSITY, update_every=EVERY)
    return supjax.sup_tickets(tx, topology, PLAN, jax.random.key(0))


def training_steps(toy: bool, most: int, budget: float) -> dict[str, dict[str, float]]:
    """Return the summaries of pairs of training steps: a wrapped one beside the dense one.

    Args:
      toy: whether the batch is small.
      most: pairs at most.
      budget: seconds for each.
    """
    training = Training("digits_cnn", 10, 8 if toy else 32, 4 if toy else 128)
    dense = Loop(*training.dense())
    pairs = {}
    for name, wrap in (("rigl", in_sparsify), (WHOLE, in_sup_tickets)):
        loop = Loop(*training.wrapped(wrap))
        pairs[name] = time_pairs(dense, loop, most=most, budget=budget).summary()
    return pairs


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
    print("compiling training steps", file=sys.stderr)
    pairs = training_steps(flags.toy, *((3, 1.0) if flags.toy else (400, 60.0)))
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
    print("Training steps, milliseconds: the median over pairs of the ratio (quartiles)")
    print_table(
        ["", "dense", "sparse", "times dense", "quartiles"],
        [
            [
                contender,
                f"{1e3 * pair['first']:.2f}",
                f"{1e3 * pair['second']:.2f}",
                f"{pair['ratio']:.3f}",
                f"{pair['ratio_lower']:.3f} to {pair['ratio_upper']:.3f}",
            ]
            for contender, pair in pairs.items()
        ],
    )
    ratios |= {f"training step, {name} / dense": pair["ratio"] for name, pair in pairs.items()}
    spreads = {
        f"training step, {name} / dense": [pair["ratio_lower"], pair["ratio_upper"]]
        for name, pair in pairs.items()
    }
    write_json(
        flags.output, {"seconds": times, "pairs": pairs, "ratios": ratios, "spreads": spreads}
    )


if __name__ == "__main__":
    main()
