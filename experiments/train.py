"""The main job: train through both phases, take tickets, superpose them, report."""

import functools
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import supjax
from experiments.checkpoints.manager import Checkpoints, check_config
from experiments.configs.rules import check_config_values, check_devices
from experiments.data.checks import CorruptImageError
from experiments.errors import DivergedError, InterruptedRunError, OutOfStepError, RunError
from experiments.records.folder import CONFIG_FILE, claimed
from experiments.records.metrics import MetricWriter
from experiments.records.progress import Progress
from experiments.run.build import build, open_dataset
from experiments.run.finish import finish_run
from experiments.run.host import Clock, StopSignals, agree, wait_for_all
from experiments.run.initial import make_initial_state
from experiments.run.seed_axis import SeedAxis
from experiments.run.sources import make_walk
from experiments.run.steps import NEVER, next_step, restored_sums, zero_sums
from experiments.run.tickets import Member, TicketShelf, clear_unfinished
from experiments.run.timeline import Timeline
from supjax.analysis import exploration_rate
from supjax.training import TrainState
from supjax.types import PyTree


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Run an experiment from where its folder stands to its end.

    A new folder starts a run; an interrupted one continues, bit for bit, from its newest usable
    checkpoint; a finished one only writes its report again.

    Args:
      config: fields as in `experiments.configs.common`.
      workdir: folder of the run, which gets config.json, checkpoints/, tickets/, metrics.jsonl,
        tensorboard/, result.npz, summary.json and plots/.

    Returns:
      The summary, as in summary.json.

    Raises:
      RunError: one line, with the exit status of the command.
    """
    [summary] = train_together([Member(config, Path(workdir))])
    return summary


def train_together(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Run several seeds of one experiment in step, as one compiled program.

    Every folder gets what a run of that seed alone would write, and can be continued alone.

    Args:
      members: configs that differ in their seeds, and a folder for each.

    Returns:
      The summary of every seed.

    Raises:
      RunError: one line, with the exit status of the command; `DivergedError` names the seeds
        that the others can go on without.
    """
    config, workdir = members[0]
    check_config_values(config)
    devices = check_devices(config, jax.process_count(), jax.local_device_count())
    try:
        run = Run(members, devices)
        with run.claims:
            return finish_run(run, run.train())
    except OSError as error:
        raise RunError(f"{error.strerror or error}: {error.filename or workdir}") from error
    except CorruptImageError as error:
        raise RunError(f"{error} (--config.runtime.corrupt_images=skip goes on)") from error


class Run:
    """One run: its static parts, the folders of its seeds, and the loop over its steps.

    A run has one seed or several that train together; whatever is a tree (the state, the sums of
    metrics) has the axis `seeds`.
    """

    def __init__(self, members: Sequence[Member], devices: int) -> None:
        self.members = members
        self.seeds = SeedAxis([member.config.seed for member in members])
        self.config = config = members[0].config  # but for the seed, that of all
        self.devices = devices
        self.primary = jax.process_index() == 0
        self.dataset = open_dataset(config)
        self.parts = build(config, self.dataset)
        self.steps_per_epoch = self.parts.steps_per_epoch
        self.plan = self.parts.plan
        self.timeline = Timeline(
            self.plan,
            self.parts.topology.due,
            self.steps_per_epoch,
            eval_every=config.eval_every_epochs * self.steps_per_epoch,
            log_every=max(self.steps_per_epoch // config.logs_per_epoch, 1),
        )
        with ExitStack() as claims:  # given back if anything below fails
            if self.primary:
                for member in members:
                    check_config(member.workdir, member.config.to_dict())
                    claims.enter_context(claimed(member.workdir / CONFIG_FILE))
                    clear_unfinished(member.workdir)
            keep = config.runtime.keep_checkpoints
            self.checkpoints = [
                Checkpoints(member.workdir, keep=keep, primary=self.primary) for member in members
            ]
            self.walk = make_walk(config, self.parts, self.dataset, devices, self.seeds)
            self.shelf = TicketShelf(members, self.seeds, self.parts.model, self.walk)
            self.densities = self.seeds.lift(supjax.density)
            self.explored = self.seeds.lift(exploration_rate)
            self.finite = jax.jit(self.seeds.lift(all_finite))
            self.clock = Clock()
            self.sums = self.zero_sums()
            self.saved_step, self.saved_at = 0, time.monotonic()
            self.claims = claims.pop_all()

    def train(self) -> TrainState:
        """Walk over the steps that are left and return the last state."""
        with ExitStack() as stack:
            signals = stack.enter_context(StopSignals())
            state, notes = self.restore_or_start()
            step = self.saved_step = next_step(state)
            if agree(step, 0) != (step, 0):
                workdir = self.members[0].workdir
                raise RunError(f"{workdir} must be a folder that all processes share")
            progress = Progress(
                self.plan.total_steps,
                start_step=step,
                steps_per_epoch=self.steps_per_epoch,
                batch_size=self.config.batch_size,
                enabled=self.primary,
            )
            for note in notes:
                progress.log(note)
            writers = []
            for member in self.members if self.primary else ():
                tensorboard = member.config.runtime.tensorboard
                writer = MetricWriter(member.workdir, resume_step=step, tensorboard=tensorboard)
                stack.callback(writer.close)
                writers.append(writer)
            state = self.walk.place(state)
            stack.enter_context(progress)
            while True:
                stop, stopped_by = agree(self.next_stop(step), signals.received)
                if stopped_by:
                    if not all(step in each.steps() for each in self.checkpoints):
                        self.save(step, state)
                    raise InterruptedRunError(stopped_by, step)
                if step == self.plan.total_steps:
                    return state
                state, metrics = self.dispatch(state, step, stop)
                step = stop
                progress.update(step, **mean_row(metrics))
                if self.timeline.log_due(step):
                    self.sums = self.zero_sums()
                    for writer, row in zip(writers, metrics, strict=False):
                        writer.write(step, "train", row)
                state, event = self.shelf.events(state, step, self.timeline, writers, progress)
                if event or self.save_due(step):
                    self.save(step, state)

    def restore_or_start(self) -> tuple[TrainState, list[str]]:
        """Return the newest usable state, or the one at step 0, and notes for the console.

        Raises:
          OutOfStepError: if the seeds' newest usable checkpoints are not of the same step.
        """
        image_shape = self.dataset.image_shape
        start = make_initial_state(self.config, self.parts, self.walk, image_shape)
        wait_for_all("checkpoints of an earlier start are in order")
        template = jax.eval_shape(functools.partial(start, self.seeds.seeds[0], 0))
        found = [each.restore_latest(template) for each in self.checkpoints]
        restored = [each for each in found if each is not None]
        if not restored:
            states = [start(seed, index) for index, seed in enumerate(self.seeds.seeds)]
            return self.seeds.stack(states), []
        steps = {int(state.step) for state, _, _ in restored}
        if len(steps) > 1 or len(restored) < len(found):
            raise OutOfStepError(self.seeds.seeds)
        states, infos, notes = zip(*restored, strict=True)
        self.clock = Clock(**infos[0]["clock"])
        sums = self.seeds.stack([restored_sums(info["sums"]) for info in infos])
        self.sums = self.walk.place_sums(sums)
        lines = [f"{self.seeds.label(i)}{note}" for i, own in enumerate(notes) for note in own]
        lines.append(f"continuing at step {steps.pop()} of {self.plan.total_steps}")
        return self.seeds.stack(states), lines

    def zero_sums(self) -> PyTree:
        """Return empty sums of every seed's metrics."""
        return self.walk.place_sums(self.seeds.stack([zero_sums() for _ in self.members]))

    def next_stop(self, step: int) -> int:
        """Return the step before which the host looks again, by the speed of this process."""
        runtime = self.config.runtime
        if step == self.plan.total_steps or self.timeline.action(step) != "train":
            return step + 1
        most = self.clock.steps_within(runtime.dispatch_seconds)
        if runtime.checkpoint_every_steps:
            most = min(most, self.saved_step + runtime.checkpoint_every_steps - step)
        return self.timeline.stretch_end(step, most)

    def save_due(self, step: int) -> bool:
        """Say whether it is time for a checkpoint, by the clock or by the count of steps."""
        runtime = self.config.runtime
        minutes = (time.monotonic() - self.saved_at) / 60
        every = runtime.checkpoint_every_steps
        return minutes >= runtime.checkpoint_every_minutes or 0 < every <= step - self.saved_step

    def save(self, step: int, state: TrainState) -> None:
        """Write a checkpoint of every seed."""
        states, all_sums = map(self.seeds.split, (state, jax.device_get(self.sums)))
        for checkpoints, own, sums in zip(self.checkpoints, states, all_sums, strict=True):
            plain = {name: value.item() for name, value in sums.items()}
            checkpoints.save(step, own, {"clock": self.clock.saved(), "sums": plain})
        self.saved_step, self.saved_at = step, time.monotonic()

    def dispatch(
        self, state: TrainState, step: int, stop: int
    ) -> tuple[TrainState, list[dict[str, Any]]]:
        """Run the steps from `step` to before `stop`; return state and mean metrics by seed."""
        action = self.timeline.action(step)
        begin = time.monotonic()
        if action == "train":
            state, self.sums = self.walk.advance(state, self.sums, stop)
        else:
            rate = self.config.sup_tickets.exploration
            if action == "topology":
                rate = self.parts.topology.drop_fraction(step)
            state, self.sums = self.walk.move(state, self.sums, rate)
        all_sums = self.seeds.split(jax.device_get(self.sums))
        self.check_finite([int(sums["first_bad"]) for sums in all_sums], state, stop - 1)
        steps = stop - step
        images = steps * self.config.batch_size
        self.clock.record(action, steps=steps, images=images, seconds=time.monotonic() - begin)
        densities = np.ravel(self.densities(state.topology.masks)).tolist()
        explored = np.ravel(self.explored(state.topology.ever_active)).tolist()
        return state, [
            {
                "phase": self.timeline.phase(step),
                "epoch": stop / self.steps_per_epoch,
                "learning_rate": float(self.parts.learning_rate(stop - 1)),
                "loss": float(sums["loss"] / sums["steps"]),
                "accuracy": float(sums["accuracy"] / sums["steps"]),
                "density": density,
                "exploration_rate": rate,
                "images_per_second": self.clock.images_per_second,
            }
            for sums, density, rate in zip(all_sums, densities, explored, strict=True)
        ]

    def check_finite(self, first_bad: list[int], state: TrainState, step: int) -> None:
        """Raise a `DivergedError` that names every seed whose loss or weights are not finite.

        Args:
          first_bad: the first step of every seed with such a loss.
          state: the state of all seeds after `step`.
          step: the last step that has run.
        """
        finite = np.ravel(self.finite(state.params)).tolist()
        lines = {}
        for index, seed in enumerate(self.seeds.seeds):
            if first_bad[index] == NEVER and finite[index]:
                continue
            what, bad = "loss is", first_bad[index]
            if bad == NEVER:
                what, bad = "weights are", step
            kept = self.checkpoints[index].steps()
            newest = (
                f"the checkpoint of step {kept[-1]} is from before it" if kept else "nothing saved"
            )
            rate = float(self.parts.learning_rate(bad))
            lines[seed] = (
                f"{self.seeds.label(index)}the {what} not finite at step {bad}, "
                f"learning rate {rate:g}; {newest}"
            )
        if lines:
            raise DivergedError("\n".join(lines.values()), tuple(lines))


def mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of rows of metrics; words are those of the first row.

    >>> mean_row([{"phase": "normal", "loss": 1.0}, {"phase": "normal", "loss": 2.0}])
    {'phase': 'normal', 'loss': 1.5}
    """
    return {
        name: value if isinstance(value, str) else fmean(row[name] for row in rows)
        for name, value in rows[0].items()
    }


def all_finite(tree: PyTree) -> jax.Array:
    """Say whether a tree holds neither NaN nor infinity.

    >>> bool(all_finite([jnp.ones(2), jnp.array(jnp.nan)]))
    False
    """
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
