"""Our side of the comparison with the reference code: one sparse network on CIFAR's shapes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import supjax
from benchmarks.loops import Loop
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
        self.model = create_model(name, CLASSES)
        weights, masks = jax.random.split(jax.random.key(seed))
        variables = self.model.init(weights, jnp.ones((1, 32, 32, 3)), train=False)
        self.tx = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9))
        self.topology = supjax.make_topology("rigl", density=DENSITY, drop_fraction=DROP)
        self.state = supjax.create_train_state(
            masks,
            variables["params"],
            self.tx,
            self.topology,
            batch_stats=variables["batch_stats"],
        )

    def size(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def train_step(self, batch: int) -> Call:
        """One compiled training step after the other."""
        images = jax.random.normal(jax.random.key(2), (batch, 32, 32, 3))
        labels = jnp.arange(batch) % CLASSES

        def loss_fn(params: Any, stats: Any, batch: Any, key: Any) -> Any:
            del key
            images, labels = batch
            variables = {"params": params, "batch_stats": stats}
            logits, new = self.model.apply(variables, images, train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (new["batch_stats"], {})

        step = supjax.make_train_step(loss_fn, self.tx, self.topology)
        return Loop(lambda state, batch: step(state, batch)[0], self.state, (images, labels))

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
