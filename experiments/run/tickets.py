"""Taking tickets out of a run's state and folding them into the superposition."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import supjax
from experiments.records.folder import PRETRAINED, superposed_name, ticket_name
from experiments.records.recorder import Recorder
from experiments.run.adapting import Adapter
from experiments.run.averages import remasked
from experiments.run.build import RunParts
from experiments.run.judging import Judge
from experiments.run.mending import Reestimator
from experiments.run.seed_axis import SeedAxis
from experiments.run.steps import RunState, Steps
from supjax.prune_grow import advance
from supjax.types import PyTree, Ticket, TopologyState


class TicketRecorder:
    """What happens to the network between steps: it is scored, kept and superposed.

    Files that a run writes twice, since it was interrupted in between, are the same files.
    """

    def __init__(self, parts: RunParts, steps: Steps, recorder: Recorder, seeds: SeedAxis) -> None:
        self._parts = parts
        self._source = steps.source
        self._evaluate = steps.evaluate
        self._place = steps.place
        self._recorder = recorder
        self._seeds = seeds
        self._reestimated = Reestimator(parts, steps.source)
        rule = parts.superposition
        self._first, self._fold, self._result = (
            jax.jit(seeds.lift(function)) for function in (rule.init, rule.fold, rule.result)
        )
        self._choose = jax.jit(seeds.lift(chosen))
        self._go_on = jax.jit(seeds.lift(partial(gone_on, parts.tx)))
        self._adapter: Adapter | None = None
        if parts.adaptation is not None:
            self._adapter = Adapter(parts.adaptation, Judge(parts, steps.source), recorder, seeds)

    def record(self, state: RunState, done: int) -> tuple[RunState, bool]:
        """Do what is due when `done` steps are done.

        Args:
          state: the state of all seeds after these steps.
          done: how many.

        Returns:
          The state, with a new superposition after a ticket, and whether it is worth a checkpoint.
        """
        timeline = self._parts.timeline
        if done == timeline.plan.total_steps:
            self._keep_averages(state, done)
        if timeline.normal_phase_ends(done):
            ticket = self._keep(PRETRAINED, "pretrained", state.train.ticket, done)
            if self._parts.include_pretrained and timeline.plan.num_cycles:
                state = state._replace(superposition=self._first(ticket))
            return state, True
        if number := timeline.ticket_after(done):
            ticket = self._keep(ticket_name(number), "ticket", state.train.ticket, done)
            before, state = state, self._superpose(state, ticket)
            if self._adapter is not None:
                state = self._adapt(self._adapter, before, state, ticket, number, done)
            superposed = self._with_batch_stats(self._result(state.superposition))
            superposed = self._keep(superposed_name(number), "superposed", superposed, done)
            if self._parts.continue_superposed and number < timeline.plan.num_cycles:
                state = self._continue_from(state, superposed)
            return state, True
        if timeline.evaluation_due(done) and self._source.has_split("validation"):
            scores = self._evaluate((state.train.ticket,), "validation")
            self._recorder.write(done, "validation", scores)
        return state, False

    def _keep(self, name: str, kind: str, ticket: Ticket, done: int) -> Ticket:
        """Score and save a network of every seed; return it on the host."""
        ticket = jax.device_get(ticket)
        own = self._seeds.split(ticket)
        scores: list[dict[str, float]] = [{} for _ in own]
        if self._source.has_split("validation"):
            scores = self._evaluate((ticket,), "validation")
        rows = [
            {"density": float(supjax.density(each.masks)), **row}
            for each, row in zip(own, scores, strict=True)
        ]
        self._recorder.keep(done, name, kind, own, rows)
        return ticket

    def _keep_averages(self, state: RunState, done: int) -> None:
        """Score and save the averages of the weights on the last masks."""
        for name, params in state.averages.items():
            ticket = state.train.ticket._replace(params=params)
            self._keep(name, name, self._with_batch_stats(ticket), done)

    def _continue_from(self, state: RunState, superposed: Ticket) -> RunState:
        """Return the state with a superposed network, on the host, in place of its own."""
        train = state.train
        kept = jax.device_get((train.opt_state, train.topology, state.averages))
        opt_state, topology, averages, network = self._go_on(*kept, superposed)
        train = train._replace(
            params=network.params,
            batch_stats=network.batch_stats,
            opt_state=opt_state,
            topology=topology,
        )
        return self._place(state._replace(train=train, averages=averages))

    def _superpose(self, state: RunState, ticket: Ticket) -> RunState:
        """Fold a ticket into the superposition, or start it; training itself is not touched."""
        if state.superposition is None:
            return state._replace(superposition=self._first(ticket))
        return state._replace(superposition=self._fold(state.superposition, ticket))

    def _adapt(
        self,
        adapter: Adapter,
        before: RunState,
        state: RunState,
        ticket: Ticket,
        number: int,
        done: int,
    ) -> RunState:
        """Return the state before the next cycle, without the tickets that it leaves out."""
        first = before.superposition is None
        train, keep = adapter.adapt(state.train, ticket, number, done, first=first)
        superposition = state.superposition
        if not first:
            superposition = self._choose(keep, superposition, before.superposition)
        return self._place(state._replace(train=train, superposition=superposition))

    def _with_batch_stats(self, ticket: Ticket) -> Ticket:
        """Return a superposed network with the batch-norm statistics that the run wants."""
        own = self._seeds.split(jax.device_get(ticket))
        return self._seeds.stack([self._reestimated(each, i) for i, each in enumerate(own)])


def chosen(keep: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """Return the one tree or the other.

    >>> chosen(jnp.array(False), {"w": jnp.ones(1)}, {"w": jnp.zeros(1)})["w"].tolist()
    [0.0]
    """
    return jax.tree.map(partial(jnp.where, keep), new, old)


def gone_on(
    tx: optax.GradientTransformation,
    opt_state: PyTree,
    topology: TopologyState,
    averages: dict[str, Any],
    network: Ticket,
) -> tuple[PyTree, TopologyState, dict[str, Any], Ticket]:
    """Return what training goes on with from another network of the same run.

    The optimizer forgets the weights outside the new masks; averages along the way move there.

    Args:
      tx: the optimizer.
      opt_state: its state.
      topology: the method's state, on the masks so far.
      averages: name -> average of the weights.
      network: to go on from.

    Returns:
      All four; the network in memory of its own, as training gives its memory away.
    """
    params, masks, _ = network
    return (
        supjax.mask_optimizer_state(tx, opt_state, params, masks),
        advance(topology, masks, topology.extra),
        remasked(averages, topology.masks, params, masks),
        jax.tree.map(jnp.copy, network),
    )
