"""Taking tickets out of a training state and folding them into the superposition."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import supjax
from experiments.records.metrics import MetricWriter
from experiments.records.progress import Progress
from experiments.run.build import target_density
from experiments.run.seed_axis import SeedAxis
from experiments.run.sources import Walk
from experiments.run.timeline import Timeline
from supjax.ticket_io import save_ticket
from supjax.training import TrainState

PRETRAINED = "pretrained"
"""File name of the network at the end of the normal phase."""


class Member(NamedTuple):
    """One seed of a run: its config, and the folder that it writes to."""

    config: ConfigDict
    workdir: Path


def ticket_name(number: int) -> str:
    """Return the file name of ticket `number`, from 1."""
    return f"ticket_{number}"


def superposed_name(number: int) -> str:
    """Return the file name of the superposition after ticket `number`."""
    return f"superposed_{number}"


def ticket_path(workdir: Path, name: str) -> Path:
    """Return where the network of that name is kept in a run's folder."""
    return workdir / "tickets" / f"{name}.npz"


def clear_unfinished(workdir: Path) -> None:
    """Remove the ticket files that an earlier process was killed in the middle of."""
    for folder in (workdir, workdir / "tickets"):
        for path in folder.glob(".*.npz.*.tmp"):
            path.unlink(missing_ok=True)


def start_superposition(state: TrainState, ticket: supjax.Ticket, average: str) -> TrainState:
    """Make a network the first member of the superposition."""
    return state._replace(
        superposed=ticket,
        superposed_count=jnp.ones(state.step.shape, jnp.int32),  # not on all the state's devices
        superposed_active=supjax.initial_active(ticket, average),
    )


class TicketShelf:
    """Keeps the networks of a run: what happens between steps, in files that a redo overwrites."""

    def __init__(self, members: Sequence[Member], seeds: SeedAxis, model: Any, walk: Walk) -> None:
        self._members = members
        self._seeds = seeds
        self._config = config = members[0].config  # but for the seed, that of all
        self._apply_fn = partial(model.apply, train=True, mutable=["batch_stats"])
        self._walk = walk
        fields = config.sup_tickets
        fold = partial(
            supjax.superpose_step,
            density=target_density(config),
            average=fields.average,
            scope=fields.scope,
            beta=fields.beta,
        )
        self._fold = jax.jit(seeds.lift(fold))

    def events(
        self,
        state: TrainState,
        done: int,
        timeline: Timeline,
        writers: Sequence[MetricWriter],
        progress: Progress,
    ) -> tuple[TrainState, bool]:
        """Do what is due when `done` steps are done.

        Args:
          state: the state of all seeds after these steps.
          done: how many.
          timeline: when what is due.
          writers: for every seed's scores on the validation split; empty on other processes than
            the first.
          progress: for a line about every event.

        Returns:
          The state, with a new superposition after a ticket, and whether it is worth a checkpoint.
        """
        fields = self._config.sup_tickets
        kept = False
        if timeline.normal_phase_ends(done):
            ticket = jax.device_get(state.ticket)
            self._keep(PRETRAINED, "pretrained", ticket, done, writers, progress)
            if fields.include_pretrained and timeline.plan.num_cycles:
                state = start_superposition(state, ticket, fields.average)
            kept = True
        elif number := timeline.ticket_after(done):
            ticket = jax.device_get(state.ticket)
            self._keep(ticket_name(number), "ticket", ticket, done, writers, progress)
            state = self._superpose(state, ticket)
            folded = self._with_batch_stats(jax.device_get(state.superposed))
            self._keep(superposed_name(number), "superposed", folded, done, writers, progress)
            kept = True
        elif timeline.evaluation_due(done) and self._walk.has_split("validation"):
            scores = self._walk.evaluate((state.ticket,), "validation")
            for writer, row in zip(writers, scores, strict=False):
                writer.write(done, "validation", row)
        return state, kept

    def _keep(
        self,
        name: str,
        kind: str,
        ticket: supjax.Ticket,
        done: int,
        writers: Sequence[MetricWriter],
        progress: Progress,
    ) -> None:
        """Save and score a network of every seed."""
        scored: list[dict[str, float]] = [{} for _ in self._members]
        if self._walk.has_split("validation"):
            scored = self._walk.evaluate((ticket,), "validation")
        for index, (member, own) in enumerate(
            zip(self._members, self._seeds.split(ticket), strict=True)
        ):
            scores = {"density": float(supjax.density(own.masks)), **scored[index]}
            if writers:
                path = ticket_path(member.workdir, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                config = member.config.to_dict()
                save_ticket(path, own, {"name": name, "step": done, "config": config, **scores})
                writers[index].write(done, kind, scores)
            title = f"{self._seeds.label(index)}{name.replace('_', ' ')}"
            line = f"{title}: density {scores['density']:.4f}"
            if "accuracy" in scores:
                line += f", validation accuracy {100 * scores['accuracy']:.2f} %"
            progress.log(line)

    def _superpose(self, state: TrainState, ticket: supjax.Ticket) -> TrainState:
        """Fold a ticket into the superposition, or start it; training itself is not touched."""
        if state.superposed is None:
            return start_superposition(state, ticket, self._config.sup_tickets.average)
        active = state.superposed_active
        folded = self._fold(state.superposed, ticket, state.superposed_count, active=active)
        return state._replace(
            superposed=folded,
            superposed_count=state.superposed_count + 1,
            superposed_active=supjax.next_active(active, folded, ticket),
        )

    def _with_batch_stats(self, ticket: supjax.Ticket) -> supjax.Ticket:
        """Return a superposed network with the batch-norm statistics that the config asks for."""
        fields = self._config.sup_tickets
        if fields.batch_stats == "average" or not jax.tree.leaves(ticket.batch_stats):
            return ticket

        def recomputed(index: int, own: supjax.Ticket) -> supjax.Ticket:
            batches = self._walk.training_batches(fields.recompute_batches, index)
            images = (batch.images for batch in batches)
            return supjax.recompute_batch_stats(self._apply_fn, own, images)

        tickets = [recomputed(i, own) for i, own in enumerate(self._seeds.split(ticket))]
        return jax.device_get(self._seeds.stack(tickets))
