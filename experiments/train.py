"""The main job: train through both phases, take tickets, superpose them, report."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import supjax
from experiments.build import build, open_dataset
from experiments.checkpoints import Checkpoints, check_config
from experiments.clock import Clock
from experiments.data.checks import CorruptImageError
from experiments.errors import DivergedError, InterruptedRunError, RunError
from experiments.finish import finish_run
from experiments.initial import initial_state
from experiments.metrics import MetricWriter
from experiments.processes import agree, wait_for_all
from experiments.progress import Progress
from experiments.signals import StopSignals
from experiments.tickets import TicketShelf
from experiments.timeline import Timeline
from experiments.validation import check_config_values, check_devices
from experiments.walks import make_walk
from experiments.walks.steps import NEVER, restored_sums, zero_sums
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
    check_config_values(config)
    devices = check_devices(config, jax.process_count(), jax.local_device_count())
    workdir = Path(workdir)
    try:
        run = Run(config, workdir, devices)
        return finish_run(run, run.train())
    except OSError as error:
        raise RunError(f"{error.strerror or error}: {error.filename or workdir}") from error
    except CorruptImageError as error:
        raise RunError(f"{error} (--config.runtime.corrupt_images=skip goes on)") from error


class Run:
    """One run: its static parts, its folder, and the loop over its steps."""

    def __init__(self, config: ConfigDict, workdir: Path, devices: int) -> None:
        self.config = config
        self.workdir = workdir
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
        if self.primary:
            check_config(workdir, config.to_dict())
        self.checkpoints = Checkpoints(
            workdir, keep=config.runtime.keep_checkpoints, primary=self.primary
        )
        self.walk = make_walk(config, self.parts, self.dataset, devices)
        self.shelf = TicketShelf(config, workdir, self.parts.model, self.walk)
        self.clock = Clock()
        self.sums = zero_sums()
        self.saved_step, self.saved_at = 0, time.monotonic()

    def train(self) -> TrainState:
        """Walk over the steps that are left and return the last state."""
        with ExitStack() as stack:
            signals = stack.enter_context(StopSignals())
            state, notes = self.restore_or_start()
            step = self.saved_step = int(state.step)
            if agree(step, 0) != (step, 0):
                raise RunError(f"{self.workdir} must be a folder that all processes share")
            progress = Progress(
                self.plan.total_steps,
                start_step=step,
                steps_per_epoch=self.steps_per_epoch,
                batch_size=self.config.batch_size,
                enabled=self.primary,
            )
            for note in notes:
                progress.log(note)
            writer = None
            if self.primary:
                tensorboard = self.config.runtime.tensorboard
                writer = MetricWriter(self.workdir, resume_step=step, tensorboard=tensorboard)
                stack.callback(writer.close)
            state = self.walk.place(state)
            stack.enter_context(progress)
            while True:
                stop, stopped_by = agree(self.next_stop(step), signals.received)
                if stopped_by:
                    if step not in self.checkpoints.steps():
                        self.save(step, state)
                    raise InterruptedRunError(stopped_by, step)
                if step == self.plan.total_steps:
                    return state
                state, metrics = self.dispatch(state, step, stop)
                step = stop
                progress.update(step, **metrics)
                if self.timeline.log_due(step):
                    self.sums = zero_sums()
                    if writer:
                        writer.write(step, "train", metrics)
                state, event = self.shelf.events(state, step, self.timeline, writer, progress)
                if event or self.save_due(step):
                    self.save(step, state)

    def restore_or_start(self) -> tuple[TrainState, list[str]]:
        """Return the newest usable state, or the one at step 0, and notes for the console."""

        def start() -> TrainState:
            return initial_state(self.config, self.parts, self.walk, self.dataset.image_shape)

        wait_for_all("checkpoints of an earlier start are in order")
        restored = self.checkpoints.restore_latest(jax.eval_shape(start))
        if restored is None:
            return start(), []
        state, info, notes = restored
        self.clock = Clock(**info["clock"])
        self.sums = restored_sums(info["sums"])
        return state, [*notes, f"continuing at step {state.step} of {self.plan.total_steps}"]

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
        """Write a checkpoint."""
        sums = {name: value.item() for name, value in jax.device_get(self.sums).items()}
        self.checkpoints.save(step, state, {"clock": self.clock.saved(), "sums": sums})
        self.saved_step, self.saved_at = step, time.monotonic()

    def dispatch(
        self, state: TrainState, step: int, stop: int
    ) -> tuple[TrainState, dict[str, Any]]:
        """Run the steps from `step` to before `stop`; return the state and the mean metrics."""
        action = self.timeline.action(step)
        begin = time.monotonic()
        if action == "train":
            state, self.sums = self.walk.advance(state, self.sums, stop)
        else:
            rate = self.config.sup_tickets.exploration
            if action == "topology":
                rate = self.parts.topology.drop_fraction(step)
            state, self.sums = self.walk.move(state, self.sums, rate)
        sums = jax.device_get(self.sums)
        if sums["first_bad"] != NEVER:
            raise self.diverged("loss", int(sums["first_bad"]))
        if not all_finite(state.params):
            raise self.diverged("weights", stop - 1)
        steps = stop - step
        images = steps * self.config.batch_size
        self.clock.record(action, steps=steps, images=images, seconds=time.monotonic() - begin)
        return state, {
            "phase": self.timeline.phase(step),
            "epoch": stop / self.steps_per_epoch,
            "learning_rate": float(self.parts.learning_rate(stop - 1)),
            "loss": float(sums["loss"] / sums["steps"]),
            "accuracy": float(sums["accuracy"] / sums["steps"]),
            "density": float(supjax.density(state.topology.masks)),
            "images_per_second": self.clock.images_per_second,
        }

    def diverged(self, what: str, step: int) -> DivergedError:
        """Return the error for a loss or weights that are not finite."""
        kept = self.checkpoints.steps()
        newest = f"the checkpoint of step {kept[-1]} is from before it" if kept else "nothing saved"
        rate = float(self.parts.learning_rate(step))
        verb = "is" if what == "loss" else "are"
        return DivergedError(
            f"the {what} {verb} not finite at step {step}, learning rate {rate:g}; {newest}"
        )


@jax.jit
def all_finite(tree: PyTree) -> jax.Array:
    """Say whether a tree holds neither NaN nor infinity.

    >>> bool(all_finite([jnp.ones(2), jnp.array(jnp.nan)]))
    False
    """
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
