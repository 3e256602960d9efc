"""One network's training steps as benchmarks take them: dense by optax alone, sparse by supjax."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import supjax
from experiments.models import create_model
from supjax.topologies import METHODS
from supjax.training import TrainState
from supjax.types import Masks, Params, TopologyState, TopologyTransform

DENSITY, DROP = 0.1, 0.3
EXAMPLE = "rigl"
"""The method that stands for sparse training where one has to do."""

Start = tuple[Callable[[Any, Any], Any], Any, Any]
"""`(step, state, data)` of a `benchmarks.loops.Loop`."""


class Training:
    """A network with random weights, random images on the device, SGD with momentum and decay.

    Attributes:
      name: of the network.
      images: `[batch, side, side, 3]`, float32.
      params: dense weights.
    """

    def __init__(
        self, name: str, classes: int, side: int, batch_size: int, *, width: float = 1.0
    ) -> None:
        """Draw everything; the network's own initialisation would take long to compile."""
        self.name = name
        self.images = jax.random.normal(jax.random.key(1), (batch_size, side, side, 3))
        self._labels = jnp.arange(batch_size) % classes
        self._model = create_model(name, classes, width=width)
        self._generator = np.random.default_rng(0)
        variables = jax.eval_shape(
            lambda key: self._model.init(key, self.images, train=False), jax.random.key(0)
        )
        self.params = jax.tree.map(self._weights, variables["params"])
        stats = variables.get("batch_stats", {})
        self._stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), stats)
        decay = optax.add_decayed_weights(5e-4)
        self._tx = optax.chain(decay, optax.sgd(1e-3, momentum=0.9))

    def dense(self) -> Start:
        """The step that somebody writes without supjax."""
        return self._own_loop(self._tx, self.params)

    def wrapped(self, wrap: Callable[[Any], Any]) -> Start:
        """The same with the optimizer wrapped by `sparsify` or `sup_tickets`."""
        tx = wrap(self._tx)
        return self._own_loop(tx, supjax.sparse_params(self.params, tx.init(self.params)))

    def _own_loop(self, tx: Any, params: Params) -> Start:
        def step(state: Any, data: Any) -> Any:
            params, stats, opt_state = state
            (_, (stats, _)), grads = jax.value_and_grad(self._loss, has_aux=True)(
                params, stats, data, None
            )
            updates, opt_state = tx.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), stats, opt_state

        return step, (params, self._stats, tx.init(params)), (self.images, self._labels)

    def regular(self, method: str) -> Start:
        """The step of a method that moves no mask."""
        topology = make_method(method)
        train = supjax.make_train_step(self._loss, self._tx, topology)

        def step(state: TrainState, data: Any) -> TrainState:
            return train(state, data)[0]

        return step, self._state(topology), (self.images, self._labels)

    def topology(self, method: str) -> Start:
        """The step of a method that moves its masks."""
        topology = make_method(method)
        move = supjax.make_topology_step(self._loss, self._tx, topology)

        def step(state: TrainState, data: Any) -> TrainState:
            return move(state, *data)[0]

        data = (self.images, self._labels), jnp.float32(DROP)
        return step, self._state(topology), data

    def topology_state(self, topology: TopologyTransform) -> TopologyState:
        """A state of the form that a method has: random masks, nothing remembered yet."""

        def total(params: Params) -> jax.Array:
            return sum(map(jnp.sum, jax.tree.leaves(params)), start=jnp.zeros(()))

        def init(key: jax.Array, params: Params) -> TopologyState:
            return topology.init(key, params, loss_fn=total, output_fn=total)

        form = jax.eval_shape(init, jax.random.key(0), self.params)
        masks = jax.tree.map(self._mask, form.masks)
        extra = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), form.extra)
        return TopologyState(masks, masks, extra)

    def _loss(self, params: Params, stats: Any, data: Any, key: Any) -> Any:
        del key
        images, labels = data
        variables = {"params": params, "batch_stats": stats}
        logits, new = self._model.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (new.get("batch_stats", {}), {})

    def _state(self, topology: TopologyTransform) -> TrainState:
        start = self.topology_state(topology)
        params = supjax.apply_masks(self.params, start.masks)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=self._stats,
            opt_state=self._tx.init(params),
            topology=start,
            rng=jax.random.key(0),
        )

    def _weights(self, leaf: Any) -> jax.Array:
        if leaf.ndim == 1:
            return jnp.ones(leaf.shape)
        return jnp.asarray(0.05 * self._generator.standard_normal(leaf.shape, np.float32))

    def _mask(self, leaf: Any) -> jax.Array:
        return jnp.asarray(self._generator.random(leaf.shape, np.float32) < DENSITY)


def make_method(name: str) -> TopologyTransform:
    """Return a method of the registry; those without a grow rule explore as in the main job."""
    offered: dict[str, Any] = {"density": DENSITY, "ramp_end": 1, "stop": 10**6}
    taken = inspect.signature(METHODS[name]).parameters
    own = supjax.make_topology(name, **{k: v for k, v in offered.items() if k in taken})
    return own if own.grows else supjax.topologies.exploring(own)


def method_groups(training: Training, methods: Sequence[str], *, moving: bool) -> list[list[str]]:
    """Return the methods in groups whose training steps are one and the same program.

    A step knows a method by the form of its state and by `observe`, and one that moves the masks
    by `update` as well; methods that agree in these, once lowered, agree in the whole step.

    Args:
      training: says for which weights.
      methods: names.
      moving: whether the step moves the masks; "dense" has no such step and is left out.
    """
    groups: dict[Any, list[str]] = {}
    params = training.params
    for name in methods:
        if moving and name == "dense":
            continue
        method = make_method(name)
        state = jax.eval_shape(lambda method=method: training.topology_state(method))
        programs = [lowered(method.observe, params, state)]
        if moving:
            key, numbers = jax.random.key(0), (jnp.int32(0), jnp.float32(DROP))
            programs.append(lowered(updater(method), key, params, state, params, *numbers))
        groups.setdefault((jax.tree.structure(state), *programs), []).append(name)
    return list(groups.values())


def updater(method: TopologyTransform) -> Callable[..., TopologyState]:
    """Return `(key, grads, state, params, step, drop_fraction) -> state`."""

    def update(
        key: jax.Array, grads: Params, state: Any, params: Params, step: Any, drop_fraction: Any
    ) -> TopologyState:
        return method.update(key, grads, state, params, step, drop_fraction=drop_fraction)

    return update


def lowered(function: Callable[..., Any] | None, *arguments: Any) -> str:
    """Return the program of a function as text; empty for none."""
    return "" if function is None else jax.jit(function).lower(*arguments).as_text()


def tree_bytes(tree: Params | Masks) -> int:
    """Return the memory of a tree's arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
