"""Our side of the comparison with the reference code: one sparse network on CIFAR's shapes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import supjax
from benchmarks.loops import Loop
from benchmarks.training import Training
from experiments.models import create_model

DENSITY, DROP, CLASSES = 0.1, 0.5, 10

Call = Callable[[], Any]


class Network:
    """A network, its training step and its mask update.

    Args:
      name: of `experiments.models`.
      seed: of weights and masks.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name, model = name, create_model(name, CLASSES)
        weights, masks = jax.random.split(jax.random.key(seed))
        variables = model.init(weights, jnp.ones((1, 32, 32, 3)), train=False)
        tx = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9))
        self.topology = supjax.make_topology("rigl", density=DENSITY, drop_fraction=DROP)
        self.state = supjax.create_train_state(
            masks,
            variables["params"],
            tx,
            self.topology,
            batch_stats=variables["batch_stats"],
        )

    def size(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def train_step(self, batch: int) -> Call:
        """One compiled training step after the other."""
        return Loop(*Training(self.name, CLASSES, 32, batch).regular("rigl"))

    def mask_update(self) -> Call:
        """New masks by magnitude and gradient, then masked weights and momentum."""

        def update(state: Any, params: Any, momentum: Any, grads: Any) -> Any:
            moved = self.topology.update(jax.random.key(3), grads, state, params, 0)
            params, momentum = (supjax.apply_masks(t, moved.masks) for t in (params, momentum))
            return moved, params, momentum

        compiled, params = jax.jit(update), self.state.params
        momentum = jax.tree.map(jnp.ones_like, params)
        grads = jax.tree.map(lambda leaf: leaf[..., ::-1] + 0.1, params)
        return lambda: compiled(self.state.topology, params, momentum, grads)


def superposition(tickets: Sequence[supjax.Ticket]) -> Call:
    """The superposition of tickets in memory."""
    return lambda: supjax.superpose(tickets, density=DENSITY)


def superposition_of_files(tickets: Sequence[supjax.Ticket], folder: Path) -> Call:
    """The same from files to a file, which is flushed to the disk."""
    paths = [folder / f"ticket{number}.npz" for number in range(len(tickets))]
    for path, ticket in zip(paths, tickets, strict=True):
        supjax.save_ticket(path, ticket)

    def call() -> None:
        result = supjax.superpose([supjax.load_ticket(path) for path in paths], density=DENSITY)
        supjax.save_ticket(folder / "superposed.npz", result)

    return call
