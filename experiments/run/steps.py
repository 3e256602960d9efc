"""The compiled steps of a run, whatever its data: many steps a dispatch, one or several devices."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import supjax
from experiments.data.types import Batch, Shard
from experiments.run.build import AXIS, Parts, make_metrics_fn
from experiments.run.seed_axis import SeedAxis
from supjax.training import TrainState
from supjax.types import PyTree

NEVER = np.int32(np.iinfo(np.int32).max)
"""Value of `first_bad` while every loss was finite."""


_ABSENT: Any = None
"""Stands for the superposition in the state that the steps compile for."""


def zero_sums() -> PyTree:
    """Return empty sums of the metrics of training steps."""
    return {
        "loss": jnp.zeros((), jnp.float32),
        "accuracy": jnp.zeros((), jnp.float32),
        "steps": jnp.zeros((), jnp.int32),
        "first_bad": jnp.asarray(NEVER),
    }


def restored_sums(saved: dict[str, Any]) -> PyTree:
    """Return sums whose values were kept as Python numbers."""
    return {name: jnp.asarray(saved[name], zero.dtype) for name, zero in zero_sums().items()}


def add_metrics(sums: PyTree, metrics: PyTree, step: jax.Array) -> PyTree:
    """Add one step's metrics; `first_bad` is the first step whose loss is not finite."""
    bad = jnp.where(jnp.isfinite(metrics["loss"]), NEVER, step)
    return {
        "loss": sums["loss"] + metrics["loss"],
        "accuracy": sums["accuracy"] + metrics["accuracy"],
        "steps": sums["steps"] + 1,
        "first_bad": jnp.minimum(sums["first_bad"], bad),
    }


def split_superposition(state: TrainState) -> tuple[TrainState, TrainState]:
    """Return the state that the steps compile for, without the superposition, and the whole.

    The superposition appears in the cyclic phase; were it part of the compiled state, every step
    would compile a second time there.
    """
    core = state._replace(superposed=_ABSENT, superposed_count=_ABSENT, superposed_active=_ABSENT)
    return core, state


def join_superposition(core: TrainState, whole: TrainState) -> TrainState:
    """Return a stepped state with the superposition that `split_superposition` set aside."""
    return core._replace(
        superposed=whole.superposed,
        superposed_count=whole.superposed_count,
        superposed_active=whole.superposed_active,
    )


def next_step(state: TrainState) -> int:
    """Return the index of the next training step, which all seeds share."""
    return int(np.ravel(jax.device_get(state.step))[0])


class Steps:
    """The compiled steps, on one device (jit) or several (pmap); each compiles once in a run.

    States, sums and tickets have the seed axis, results too.
    """

    def __init__(
        self,
        parts: Parts,
        train_batch: Callable[[Any, jax.Array, Shard], Batch],
        eval_batch: Callable[[Any, Shard], Batch],
        devices: int,
        data_axis: int | None,
        seeds: SeedAxis,
        seeded_data: Any = None,
    ) -> None:
        """Build the functions; they compile when they are first called.

        Args:
          parts: the run's static parts.
          train_batch: `(data, step, shard) -> one device's share of a batch`, traced into them.
          eval_batch: `(data, shard) -> one device's share`, likewise.
          devices: devices in this process.
          data_axis: None if every device sees all of `data`, 0 if it comes split.
          seeds: the seeds that step together.
          seeded_data: which parts of training `data` have the seed axis, as in `jax.vmap`.
        """
        count = devices * jax.process_count()
        axis = AXIS if count > 1 else None
        loss_fn = parts.loss_fn if axis is None else parts.parallel_loss_fn
        train = supjax.make_train_step(loss_fn, parts.tx, parts.topology, axis_name=axis)
        move = supjax.make_topology_step(loss_fn, parts.tx, parts.topology, axis_name=axis)
        score = supjax.make_eval_step(make_metrics_fn(parts.model), axis_name=axis)

        def shard() -> Shard:
            return Shard() if axis is None else Shard(jax.lax.axis_index(axis), count)

        def one(state: TrainState, sums: PyTree, data: Any) -> tuple[TrainState, PyTree]:
            index = state.step
            state, metrics = train(state, train_batch(data, index, shard()))
            return state, add_metrics(sums, metrics, index)

        step = seeds.lift(one, in_axes=(0, 0, seeded_data))

        def many(
            state: TrainState, sums: PyTree, data: Any, stop: jax.Array
        ) -> tuple[TrainState, PyTree]:
            # The loop is outside of the seed axis: inside, it would become a selection between
            # the old and the new state at every step.
            def unfinished(carry: tuple[TrainState, PyTree]) -> jax.Array:
                return jnp.min(carry[0].step) < stop

            return jax.lax.while_loop(unfinished, lambda carry: step(*carry, data), (state, sums))

        def moving(
            state: TrainState, sums: PyTree, data: Any, drop_fraction: jax.Array
        ) -> tuple[TrainState, PyTree]:
            index = state.step
            batch = train_batch(data, index, shard())
            state, metrics = move(state, batch, drop_fraction)
            return state, add_metrics(sums, metrics, index)

        def scoring(tickets: tuple[supjax.Ticket, ...], data: Any) -> PyTree:
            return score(tickets, eval_batch(data, shard()))

        def compiled(function: Callable[..., Any], *axes: Any, donate: Any = ()) -> Any:
            if axis is None:
                return jax.jit(function, donate_argnums=donate)
            chosen = jax.local_devices()[:devices] if jax.process_count() == 1 else None
            return supjax.data_parallel(
                function, AXIS, in_axes=axes, devices=chosen, donate_argnums=donate
            )

        topology_step = seeds.lift(moving, in_axes=(0, 0, seeded_data, None))
        scores = seeds.lift(scoring, in_axes=(0, None))
        self.one = compiled(step, None, None, data_axis, donate=(0, 1))
        self.many = compiled(many, None, None, data_axis, None, donate=(0, 1))
        self.moving = compiled(topology_step, None, None, data_axis, None, donate=(0, 1))
        self.scoring = compiled(scores, None, data_axis)
        self.place = compiled(lambda tree: tree, None)


def mean_scores(batches: Iterable[PyTree]) -> list[dict[str, float]]:
    """Return every seed's accuracy and mean loss from the sums over batches.

    >>> mean_scores([{"correct": 1.0, "loss": 3.0, "examples": 2.0}])
    [{'accuracy': 0.5, 'loss': 1.5}]
    """
    sums = [jax.device_get(batch) for batch in batches]

    def total(name: str) -> list[float]:
        return np.sum([np.ravel(batch[name]) for batch in sums], axis=0, dtype=float).tolist()

    return [
        {"accuracy": correct / examples, "loss": loss / examples}
        for correct, loss, examples in zip(
            total("correct"), total("loss"), total("examples"), strict=True
        )
    ]
