"""The main job: train through both phases, take tickets, superpose them, report."""

import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import supjax
from experiments.build import build, open_dataset
from experiments.checkpoints import Checkpoints, check_config
from experiments.clock import Clock
from experiments.errors import DivergedError, InterruptedRunError, RunError
from experiments.finish import finish_run
from experiments.metrics import MetricWriter
from experiments.progress import Progress
from experiments.signals import StopSignals
from experiments.tickets import TicketShelf
from experiments.timeline import Timeline
from experiments.validation import check_config_values, check_devices
from experiments.walks import make_walk
from experiments.walks.steps import NEVER
from supjax.training import TrainState


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
        if jax.process_index() == 0:
            check_config(workdir, config.to_dict())
        run = Run(config, workdir, devices)
        return finish_run(run, run.train())
    except OSError as error:
        raise RunError(f"{error.strerror or error}: {error.filename or workdir}") from error


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
            config.eval_every_epochs * self.steps_per_epoch,
        )
        self.walk = make_walk(config, self.parts, self.dataset, devices)
        self.checkpoints = Checkpoints(
            workdir, keep=config.runtime.keep_checkpoints, primary=self.primary
        )
        self.shelf = TicketShelf(config, workdir, self.parts.model, self.walk, self.primary)
        self.clock = Clock()

    def initial_state(self) -> TrainState:
        """Return the state at step 0."""
        parts, root = self.parts, jax.random.key(self.config.seed)
        image = jnp.ones((1, *self.dataset.image_shape), jnp.float32)
        init = jax.jit(functools.partial(parts.model.init, train=False))
        variables = init(jax.random.fold_in(root, 0), image)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})

        def output_fn(params: Any) -> jax.Array:
            inputs = {"params": params, "batch_stats": batch_stats}
            return parts.model.apply(inputs, image, train=False)

        def loss_fn(params: Any) -> jax.Array:
            batches = self.walk.training_batches(self.config.topology.init_batches)
            losses = [parts.loss_fn(params, batch_stats, b, root)[0] for b in batches]
            return jnp.mean(jnp.stack(losses))

        return supjax.create_train_state(
            jax.random.fold_in(root, 1),
            params,
            parts.tx,
            parts.topology,
            batch_stats=batch_stats,
            loss_fn=loss_fn,
            output_fn=output_fn,
        )

    def restore_or_start(self, progress: Progress) -> TrainState:
        """Return the state of the newest usable checkpoint, or the one at step 0."""
        restored = self.checkpoints.restore_latest(jax.eval_shape(self.initial_state))
        if restored is None:
            return self.initial_state()
        state, info, reports = restored
        for line in reports:
            progress.log(line)
        self.clock = Clock(**info)
        progress.log(f"continuing at step {int(state.step)} of {self.plan.total_steps}")
        return state

    def train(self) -> TrainState:
        """Walk over the steps that are left and return the last state."""
        runtime = self.config.runtime
        with StopSignals() as signals:
            progress = Progress(
                self.plan.total_steps,
                start_step=0,
                steps_per_epoch=self.steps_per_epoch,
                batch_size=self.config.batch_size,
                enabled=self.primary,
            )
            state = self.restore_or_start(progress)
            step = saved = int(state.step)
            saved_at = time.monotonic()
            writer = None
            if self.primary:
                writer = MetricWriter(
                    self.workdir, resume_step=step, tensorboard=runtime.tensorboard
                )
            state = self.walk.place(state)
            with progress:
                while step < self.plan.total_steps:
                    state, metrics, step = self.dispatch(state, step)
                    progress.update(step, **metrics)
                    if writer:
                        writer.write(step, "train", metrics)
                    state, event = self.shelf.events(state, step, self.timeline, writer, progress)
                    minutes = (time.monotonic() - saved_at) / 60
                    if (
                        event
                        or signals.received
                        or minutes >= runtime.checkpoint_every_minutes
                        or 0 < runtime.checkpoint_every_steps <= step - saved
                    ):
                        self.checkpoints.save(step, state, self.clock.saved())
                        saved, saved_at = step, time.monotonic()
                    if signals.received:
                        raise InterruptedRunError(signals.received, step)
            if writer:
                writer.close()
        return state

    def dispatch(self, state: TrainState, step: int) -> tuple[TrainState, dict[str, Any], int]:
        """Run the next stretch of steps; return the state, mean metrics, and the steps done."""
        action = self.timeline.action(step)
        begin = time.monotonic()
        if action == "train":
            pace = self.clock.steps_within(self.config.runtime.log_every_seconds)
            done = min(self.timeline.stretch_end(step), step + pace)
            state, sums = self.walk.advance(state, done)
        else:
            done = step + 1
            explore = action == "explore"
            rate = self.parts.topology.drop_fraction(step)
            rate = self.config.sup_tickets.exploration if explore else rate
            state, sums = self.walk.move(state, rate)
        sums = jax.device_get(sums)
        if sums["first_bad"] != NEVER:
            raise DivergedError(
                f"the loss is not finite at step {int(sums['first_bad'])}; the newest checkpoint "
                f"is from before it (learning rate {float(self.parts.learning_rate(step)):g})"
            )
        self.clock.record(
            action,
            steps=done - step,
            images=(done - step) * self.config.batch_size,
            seconds=time.monotonic() - begin,
        )
        metrics = {
            "phase": self.timeline.phase(done - 1),
            "epoch": done / self.steps_per_epoch,
            "learning_rate": float(self.parts.learning_rate(done - 1)),
            "loss": float(sums["loss"] / sums["steps"]),
            "accuracy": float(sums["accuracy"] / sums["steps"]),
            "density": float(supjax.density(state.topology.masks)),
            "images_per_second": self.clock.images_per_second,
        }
        return state, metrics, done
