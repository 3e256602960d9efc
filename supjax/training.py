"""Train, topology and evaluation steps as pure functions."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from supjax.checks import check_key, check_trainer
from supjax.masked_update import (
    divided_entries,
    mask_optimizer_state,
    masked_update,
    start_grown,
)
from supjax.masks import apply_masks
from supjax.placement import beside
from supjax.types import Params, PyTree, Scalar, Ticket, TopologyState, TopologyTransform

LossFn = Callable[[Params, PyTree, PyTree, jax.Array], tuple[jax.Array, tuple[PyTree, PyTree]]]
"""`(params, batch_stats, batch, key) -> (loss, (new_batch_stats, metrics))`."""

StepFn = Callable[..., Any]


class TrainState(NamedTuple):
    """Everything a run carries from step to step; arrays only.

    Attributes:
      step: index of the next training step, shape (), int32.
      params: weights, always already masked.
      batch_stats: running batch-norm statistics, or an empty dict.
      opt_state: state of the optax optimizer; its per-weight entries are masked as well.
      topology: masks and whatever the method carries.
      rng: typed key of the run; every step folds its index in.

    >>> import supjax
    >>> topology, params = supjax.make_topology("dense"), {"w": jnp.ones((2, 2))}
    >>> state = create_train_state(jax.random.key(0), params, optax.sgd(0.1), topology)
    >>> int(state.step), supjax.density(state.ticket.masks)
    (0, 1.0)
    """

    step: jax.Array
    params: Params
    batch_stats: PyTree
    opt_state: PyTree
    topology: TopologyState
    rng: jax.Array

    @property
    def ticket(self) -> Ticket:
        """The current network as a ticket."""
        return Ticket(self.params, self.topology.masks, self.batch_stats)


def create_train_state(
    key: jax.Array,
    params: Params,
    tx: optax.GradientTransformation,
    topology: TopologyTransform,
    *,
    batch_stats: PyTree | None = None,
    **init_args: Any,
) -> TrainState:
    """Return the state at step 0, with masked weights.

    Args:
      key: typed PRNG key; the key is consumed.
      params: dense initial weights.
      tx: optimizer.
      topology: method.
      batch_stats: initial batch-norm statistics.
      **init_args: `loss_fn` or `output_fn` for the methods that score the network at init;
        `masks`, or a `Ticket` with some, to go on with instead of drawing new ones.

    Returns:
      A `TrainState`.

    Raises:
      TypeError: if `key` is not a typed key, `tx` no optimizer or `topology` no method.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> topology = supjax.make_topology("static", density=0.5)
    >>> params = {"kernel": jnp.ones((2, 2))}
    >>> state = create_train_state(jax.random.key(0), params, optax.sgd(0.1), topology)
    >>> supjax.density(state.params)
    0.5
    """
    check_trainer(tx, topology)
    first, rest = jax.random.split(check_key(key))
    start = beside(topology.init(first, params, **init_args), params)
    params = apply_masks(params, start.masks)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={} if batch_stats is None else batch_stats,
        opt_state=tx.init(params),
        topology=start,
        rng=rest,
    )


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    topology: TopologyTransform,
    *,
    axis_name: str | None = None,
) -> StepFn:
    """Return `(state, batch) -> (state, metrics)`, one step of sparse training.

    `g = grad(loss)(p)`; the optimizer gets `g * m`; `p' = (p + u) * m`. Because weights are
    already masked, g is the dense gradient and costs nothing extra.

    Args:
      loss_fn: `(params, batch_stats, batch, key) -> (loss, (new_batch_stats, metrics))`.
      tx: optimizer.
      topology: method; only its `observe` runs here.
      axis_name: mapped axis over which gradients, metrics and batch statistics are averaged;
        None on one device. The key given to `loss_fn` is then folded with the device's index.

    Returns:
      A pure function; metrics gain an entry `loss`.

    Raises:
      TypeError: if `tx` is no optimizer or `topology` no method.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> def loss_fn(params, batch_stats, batch, key):
    ...     return jnp.sum((batch @ params["w"]) ** 2), (batch_stats, {})
    >>> tx, topology = optax.sgd(0.1), supjax.make_topology("dense")
    >>> state = create_train_state(jax.random.key(0), {"w": jnp.ones((1, 1))}, tx, topology)
    >>> state, metrics = make_train_step(loss_fn, tx, topology)(state, jnp.ones((1, 1)))
    >>> float(metrics["loss"]), round(float(state.params["w"][0, 0]), 3), int(state.step)
    (1.0, 0.8, 1)
    """
    step = _gradient_step(loss_fn, tx, topology, axis_name)

    def train_step(state: TrainState, batch: PyTree) -> tuple[TrainState, PyTree]:
        state, metrics, _ = step(state, batch)
        return state, metrics

    return train_step


def make_topology_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    topology: TopologyTransform,
    *,
    axis_name: str | None = None,
) -> StepFn:
    """Return `(state, batch, drop_fraction) -> (state, metrics)`: a train step, then new masks.

    The weight update is that of `make_train_step`, so no optimizer step is skipped and schedules
    stay in line. Then the masks move, by the updated weights and the gradient from before the
    update, and weights and optimizer state are masked anew. A cycle's exploration is the same
    function with `drop_fraction = p`.

    Args:
      loss_fn: see `make_train_step`.
      tx: see `make_train_step`.
      topology: method.
      axis_name: see `make_train_step`; the topology's key is the same on all devices.

    Returns:
      A pure function; `drop_fraction` may be traced, `topology.drop_fraction(step)` gives the
      method's own.

    Raises:
      TypeError: if `tx` is no optimizer or `topology` no method.

    Source: the order of the authors' code of Yin et al., UAI 2022.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> def loss_fn(params, batch_stats, batch, key):
    ...     return jnp.sum(batch @ params["w"]), (batch_stats, {})
    >>> tx, topology = optax.sgd(0.1), supjax.make_topology("rigl", density=0.5)
    >>> params, batch = {"w": jnp.ones((2, 4))}, jnp.array([[1.0, 2.0]])
    >>> state = create_train_state(jax.random.key(0), params, tx, topology)
    >>> topology_step = jax.jit(make_topology_step(loss_fn, tx, topology))
    >>> state, metrics = topology_step(state, batch, topology.drop_fraction(0))
    >>> supjax.density(state.topology.masks), float(metrics["loss"])
    (0.5, 6.0)
    """
    step = _gradient_step(loss_fn, tx, topology, axis_name)

    def topology_step(
        state: TrainState, batch: PyTree, drop_fraction: Scalar
    ) -> tuple[TrainState, PyTree]:
        index = state.step
        state, metrics, grads = step(state, batch)
        key = jax.random.fold_in(jax.random.fold_in(state.rng, index), 1)
        before = state.topology
        moved = topology.update(
            key, grads, before, state.params, index, drop_fraction=drop_fraction
        )
        kept = jax.tree.map(jnp.logical_and, before.masks, moved.masks)
        clean = mask_optimizer_state(tx, state.opt_state, state.params, kept)
        state = state._replace(
            params=apply_masks(state.params, moved.masks),
            opt_state=start_grown(
                tx, clean, state.params, kept, moved.masks, divided_entries(tx, state.params)
            ),
            topology=moved,
        )
        return state, metrics

    return topology_step


def make_eval_step(
    metrics_fn: Callable[[Ticket, PyTree], PyTree], *, axis_name: str | None = None
) -> StepFn:
    """Return `(ticket, batch) -> sums`, the metrics of one batch added over devices.

    Args:
      metrics_fn: `(ticket, batch) -> tree of sums` over the batch's examples (correct answers,
        losses, a count), so that batches of any size add up; padding gets weight 0 in it.
      axis_name: mapped axis over which sums are added; None on one device.

    Returns:
      A pure function.

    >>> import jax.numpy as jnp
    >>> count = make_eval_step(lambda ticket, batch: {"examples": jnp.sum(batch["weight"])})
    >>> count(Ticket({}, {}), {"weight": jnp.array([1.0, 1.0, 0.0])})
    {'examples': Array(2., dtype=float32)}
    """

    def eval_step(ticket: Ticket, batch: PyTree) -> PyTree:
        sums = metrics_fn(ticket, batch)
        return sums if axis_name is None else jax.lax.psum(sums, axis_name)

    return eval_step


def _gradient_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    topology: TopologyTransform,
    axis_name: str | None,
) -> StepFn:
    """Return `(state, batch) -> (state, metrics, dense gradient)`."""
    check_trainer(tx, topology)

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, PyTree, Params]:
        key = jax.random.fold_in(jax.random.fold_in(state.rng, state.step), 0)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        (loss, (batch_stats, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.batch_stats, batch, key
        )
        metrics = {**metrics, "loss": loss}
        if axis_name is not None:
            grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
            batch_stats = jax.tree.map(partial(_mean_over_devices, axis_name), batch_stats)
        current = state.topology
        if topology.observe is not None:
            current = topology.observe(grads, current)
        updates, opt_state = masked_update(tx, grads, state.opt_state, state.params, current.masks)
        state = state._replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            topology=current,
        )
        return state, metrics, grads

    return step


def _mean_over_devices(axis_name: str, leaf: jax.Array) -> jax.Array:
    """Average statistics; integer counters are the same everywhere and stay integers."""
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return jax.lax.pmax(leaf, axis_name)
    return jax.lax.pmean(leaf, axis_name)
