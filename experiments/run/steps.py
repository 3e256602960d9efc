"""The compiled steps of a run, whatever its data: many steps a dispatch, one or several devices."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import supjax
from experiments.data.types import Batch, Shard
from experiments.run.averages import averaged, remasked
from experiments.run.build import AXIS, RunParts
from experiments.run.cycles import cycle_values
from experiments.run.losses import make_metrics_fn
from experiments.run.seed_axis import SeedAxis
from supjax.analysis import exploration_rate
from supjax.training import TrainState
from supjax.types import PyTree, Ticket

NEVER = np.int32(np.iinfo(np.int32).max)
"""Value of `first_bad` while every loss was finite."""


class RunState(NamedTuple):
    """All that a run is at a step boundary, of one seed or of all of them.

    Attributes:
      train: the network in training.
      sums: metrics of the training steps since the last line of metrics.
      superposition: state of the averaging rule; None before its first member. The steps compile
        without it, or every one would compile a second time when it appears.
      averages: of the weights along the way, by name; see `experiments.run.averages`.
    """

    train: TrainState
    sums: PyTree
    superposition: Any = None
    averages: Any = {}  # noqa: RUF012  (never mutated: trees are values)

    @property
    def stepped(self) -> tuple[TrainState, PyTree, Any]:
        """What training steps work on."""
        return self.train, self.sums, self.averages


def zero_sums() -> PyTree:
    """Return empty sums of the metrics of training steps."""
    return {
        "loss": jnp.zeros((), jnp.float32),
        "accuracy": jnp.zeros((), jnp.float32),
        "steps": jnp.zeros((), jnp.int32),
        "first_bad": jnp.asarray(NEVER),
    }


def add_metrics(sums: PyTree, metrics: PyTree, step: jax.Array) -> PyTree:
    """Add one step's metrics; `first_bad` is the first step whose loss is not finite."""
    bad = jnp.where(jnp.isfinite(metrics["loss"]), NEVER, step)
    return {
        "loss": sums["loss"] + metrics["loss"],
        "accuracy": sums["accuracy"] + metrics["accuracy"],
        "steps": sums["steps"] + 1,
        "first_bad": jnp.minimum(sums["first_bad"], bad),
    }


def with_stepped(state: RunState, stepped: tuple[TrainState, PyTree, Any]) -> RunState:
    """Return a state with what training steps have made of `RunState.stepped`."""
    train, sums, averages = stepped
    return state._replace(train=train, sums=sums, averages=averages)


def next_step(state: RunState) -> int:
    """Return the index of the next training step, which all seeds share."""
    return int(np.ravel(jax.device_get(state.train.step))[0])


class Placement:
    """The devices of a run: functions compiled for one of them (jit) or for several (pmap).

    Attributes:
      count: devices of all processes together.
      axis: name of the device axis; None on a single device.
      devices: those of this process, if there are several in all.
    """

    def __init__(self, local: int) -> None:
        self.count = local * jax.process_count()
        self.axis = AXIS if self.count > 1 else None
        self.devices = jax.local_devices()[:local] if self.count > 1 else None
        self.place = self.compile(lambda tree: tree, None)

    def compile(self, function: Callable[..., Any], *in_axes: Any, donate: Any = ()) -> Any:
        """Return a compiled function of arguments that are the same on all devices.

        Args:
          function: pure.
          *in_axes: per argument None, or 0 if it comes split over the devices.
          donate: arguments whose buffers may be reused.
        """
        if self.axis is None:
            return jax.jit(function, donate_argnums=donate)
        chosen = self.devices if jax.process_count() == 1 else None
        return supjax.data_parallel(
            function, AXIS, in_axes=in_axes, devices=chosen, donate_argnums=donate
        )

    def shard(self) -> Shard:
        """Return a device's share of a batch, inside a compiled function."""
        return Shard() if self.axis is None else Shard(jax.lax.axis_index(self.axis), self.count)


class Source(Protocol):
    """Where batches come from; it knows nothing of states.

    Attributes:
      data_axis: None if every device sees all of the data of a step, 0 if they come split.
      seeded: which parts of the data of a step have the axis of the seeds, as in `jax.vmap`.
      fused: whether the data of a step serve its whole epoch, so that a dispatch may hold many.
    """

    data_axis: int | None
    seeded: Any
    fused: bool

    def has_split(self, split: str) -> bool:
        """Say whether the data set has examples in a split."""

    def data(self, step: int) -> Any:
        """Return what a training step reads, where the steps run."""

    def train_batch(self, data: Any, step: jax.Array, shard: Shard) -> Batch:
        """Return one device's share of a step's batch; traced into the steps."""

    def held_out(self, split: str) -> Iterable[Any]:
        """Return what the evaluation of a split reads, where the steps run."""

    def eval_batch(self, data: Any, shard: Shard) -> Batch:
        """Return one device's share of a batch for evaluation; traced."""

    def training_batches(self, count: int, index: int = 0) -> Iterator[Batch]:
        """Yield the first `count` training batches of one seed, normalised."""


class Steps:
    """The compiled steps over a source; each compiles once in a run.

    States, sums and tickets have the seed axis, results too.
    """

    def __init__(
        self, parts: RunParts, source: Source, placement: Placement, seeds: SeedAxis
    ) -> None:
        """Build the functions; they compile when they are first called."""
        self.source = source
        self.devices = placement.count
        axis = placement.axis
        loss_fn = parts.loss_fn if axis is None else parts.parallel_loss_fn
        train = supjax.make_train_step(loss_fn, parts.tx, parts.topology, axis_name=axis)
        update = supjax.make_topology_step(loss_fn, parts.tx, parts.topology, axis_name=axis)
        score = supjax.make_eval_step(make_metrics_fn(parts.model), axis_name=axis)

        shares, first_cycle = parts.shares, parts.plan.normal_steps
        self._learning_rate, self._adaptive = parts.learning_rate, parts.adaptation is not None
        adaptive = self._adaptive

        def one_step(
            state: TrainState, sums: PyTree, averages: PyTree, data: Any
        ) -> tuple[TrainState, PyTree, PyTree]:
            index = state.step
            state, metrics = train(state, source.train_batch(data, index, placement.shard()))
            averages = averaged(shares, averages, state.params, index)
            return state, add_metrics(sums, metrics, index), averages

        step = seeds.lift(one_step, in_axes=(0, 0, 0, source.seeded))

        def many_steps(
            state: TrainState, sums: PyTree, averages: PyTree, data: Any, stop: jax.Array
        ) -> tuple[TrainState, PyTree, PyTree]:
            # The loop is outside of the seed axis: inside, it would become a selection between
            # the old and the new state at every step.
            def unfinished(carry: tuple[TrainState, PyTree, PyTree]) -> jax.Array:
                return jnp.min(carry[0].step) < stop

            return jax.lax.while_loop(
                unfinished, lambda carry: step(*carry, data), (state, sums, averages)
            )

        def topology_step(
            state: TrainState, sums: PyTree, averages: PyTree, data: Any, drop_fraction: jax.Array
        ) -> tuple[TrainState, PyTree, PyTree]:
            index, before = state.step, state.topology.masks
            if adaptive:  # an exploration moves what the last cycle has decided
                share = cycle_values(state).exploration
                drop_fraction = jnp.where(index < first_cycle, drop_fraction, share)
            batch = source.train_batch(data, index, placement.shard())
            state, metrics = update(state, batch, drop_fraction)
            averages = averaged(shares, averages, state.params, index)
            averages = remasked(averages, before, state.params, state.topology.masks)
            return state, add_metrics(sums, metrics, index), averages

        def scoring(tickets: tuple[Ticket, ...], data: Any) -> PyTree:
            return score(tickets, source.eval_batch(data, placement.shard()))

        lifted = seeds.lift(topology_step, in_axes=(0, 0, 0, source.seeded, None))
        scores = seeds.lift(scoring, in_axes=(0, None))
        data_axis = source.data_axis
        state_axes, donate = (None, None, None), (0, 1, 2)
        self._one = placement.compile(step, *state_axes, data_axis, donate=donate)
        self._many = placement.compile(many_steps, *state_axes, data_axis, None, donate=donate)
        self._update = placement.compile(lifted, *state_axes, data_axis, None, donate=donate)
        self._scoring = placement.compile(scores, None, data_axis)
        self._place = placement.place
        self._zero_sums = seeds.stack([zero_sums() for _ in seeds.seeds])
        self._density = seeds.lift(supjax.density)
        self._exploration_rate = seeds.lift(exploration_rate)
        self._finite = jax.jit(seeds.lift(all_finite))

    def place(self, state: RunState) -> RunState:
        """Put a state on the devices of the steps, which would else compile twice."""
        return with_stepped(state, self._place(state.stepped))

    def with_zero_sums(self, state: RunState) -> RunState:
        """Return the state with empty sums of metrics."""
        return state._replace(sums=self._place(self._zero_sums))

    def advance(self, state: RunState, stop: int, drop_fraction: float | None = None) -> RunState:
        """Train to just before step `stop`, all in one epoch.

        Args:
          state: of all seeds.
          stop: index of the first step that is left.
          drop_fraction: share of the weights that move after a single step; None moves none.
        """
        step, stepped = next_step(state), state.stepped
        if drop_fraction is not None:
            rate = np.float32(drop_fraction)
            stepped = self._update(*stepped, self.source.data(step), rate)
        elif self.source.fused:
            stepped = self._many(*stepped, self.source.data(step), np.int32(stop))
        else:
            for index in range(step, stop):
                stepped = self._one(*stepped, self.source.data(index))
        return with_stepped(state, stepped)

    def coverage(self, state: RunState) -> tuple[list[float], list[float]]:
        """Return every seed's density and exploration rate R_s."""
        topology = state.train.topology
        return (
            np.ravel(self._density(topology.masks)).tolist(),
            np.ravel(self._exploration_rate(topology.ever_active)).tolist(),
        )

    def learning_rates(self, state: RunState, step: int) -> list[float]:
        """Return every seed's learning rate at a step of the normal phase or the state's cycle."""
        if not self._adaptive:
            rate = float(self._learning_rate(step))
            return [rate] * np.size(jax.device_get(state.train.step))
        highs = np.ravel(jax.device_get(cycle_values(state.train).high))
        return [float(self._learning_rate(step, float(high))) for high in highs]

    def finite(self, state: RunState) -> list[bool]:
        """Say of every seed whether its weights hold neither NaN nor infinity."""
        return np.ravel(self._finite(state.train.params)).tolist()

    def evaluate(self, tickets: tuple[Ticket, ...], split: str) -> list[dict[str, float]]:
        """Return every seed's accuracy and loss of tickets answering together on a split."""
        tickets = self._place(tickets)
        return mean_scores(self._scoring(tickets, batch) for batch in self.source.held_out(split))


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


def all_finite(tree: PyTree) -> jax.Array:
    """Say whether a tree holds neither NaN nor infinity.

    >>> bool(all_finite([jnp.ones(2), jnp.array(jnp.nan)]))
    False
    """
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
