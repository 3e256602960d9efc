"""The main job: train through both phases, take tickets, superpose them, report."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from experiments.configs.rules import check_config_values, check_devices
from experiments.data.checks import CorruptImageError
from experiments.errors import CheckpointError, DivergedError, InterruptedRunError, RunError
from experiments.records.folder import RunFolder
from experiments.records.progress import Progress
from experiments.records.recorder import Recorder
from experiments.run.build import RunParts, build, open_dataset
from experiments.run.finish import finish_run
from experiments.run.host import Clock, agreed_stop, wait_for_all
from experiments.run.initial import initial_state
from experiments.run.seed_axis import SeedAxis
from experiments.run.sources import make_steps
from experiments.run.start import start_path
from experiments.run.steps import NEVER, RunState, Steps, next_step
from experiments.run.tickets import TicketRecorder
from experiments.stopping import StopSignals


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
    [summary] = train_together([RunFolder(workdir, config)])
    return summary


def train_together(folders: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Run several seeds of one experiment in step, as one compiled program.

    Every folder gets what a run of that seed alone would write, and can be continued alone.

    Args:
      folders: one a seed, with configs that differ in their seeds.

    Returns:
      The summary of every seed.

    Raises:
      RunError: one line, with the exit status of the command; `DivergedError` names the seeds
        that the others can go on without.
    """
    config = folders[0].config  # but for the seed, that of all
    for folder in folders:
        check_config_values(folder.config)
    devices = check_devices(config, jax.process_count(), jax.local_device_count())
    try:
        with open_run(folders, devices) as run:
            state = train(run, config.runtime)
            return finish_run(run.parts, run.steps, run.seeds, run.recorder, run.clock, state)
    except OSError as error:
        raise RunError(f"{error.strerror or error}: {error.filename or folders[0].path}") from error
    except CorruptImageError as error:
        raise RunError(f"{error} (--config.runtime.corrupt_images=skip goes on)") from error


class Run(NamedTuple):
    """What the loop works with; what changes in a run is its `RunState` and its clock."""

    parts: RunParts
    steps: Steps
    seeds: SeedAxis
    recorder: Recorder
    clock: Clock


@contextmanager
def open_run(folders: Sequence[RunFolder], devices: int) -> Iterator[Run]:
    """Return a run whose folders are locked until the context ends."""
    config = folders[0].config
    parts = build(config, open_dataset(config), folders)
    with Recorder(folders, config.runtime) as recorder:
        seeds = SeedAxis([folder.config.seed for folder in folders])
        steps = make_steps(parts, seeds, devices, config.runtime)
        yield Run(parts, steps, seeds, recorder, Clock())


def train(run: Run, runtime: ConfigDict) -> RunState:
    """Go over the steps that are left and return the last state.

    Args:
      run: its parts.
      runtime: the config's group of that name.
    """
    timeline, recorder = run.parts.timeline, run.recorder
    total = timeline.plan.total_steps
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        state, lines = restore_or_start(run)
        step, fresh = next_step(state), recorder.newest(0) is None
        if agreed_stop(step, 0) != (step, 0):
            raise RunError(f"{recorder.folders[0].path} must be a folder that all processes share")
        progress = Progress(
            total,
            start_step=step,
            steps_per_epoch=timeline.steps_per_epoch,
            batch_size=run.parts.batch_size,
            enabled=recorder.primary,
        )
        recorder.follow(progress, step, lines, anew=fresh)
        tickets = TicketRecorder(run.parts, run.steps, recorder, run.seeds)
        state = run.steps.place(state)
        stack.enter_context(progress)
        if fresh and run.parts.start is not None:  # at the end of a normal phase
            state, _ = tickets.record(state, step)
            save(run, step, state)
        while True:
            stop, stopped_by = agreed_stop(next_stop(run, step, runtime), signals.received)
            if stopped_by:
                if not recorder.saved(step):
                    save(run, step, state)
                raise InterruptedRunError(stopped_by, step)
            if step == total:
                return state
            state, rows = dispatch(run, state, step, stop)
            step = stop
            progress.update(step, **mean_row(rows))
            if timeline.log_due(step):
                state = run.steps.with_zero_sums(state)
                recorder.write(step, "train", rows)
            state, worth_saving = tickets.record(state, step)
            if worth_saving or recorder.save_due(step):
                save(run, step, state)


def restore_or_start(run: Run) -> tuple[RunState, list[str]]:
    """Return the newest usable state, or the run's first one, and lines for the console.

    Raises:
      OutOfStepError: if the seeds' newest usable checkpoints are not of the same step.
    """
    parts, seeds = run.parts, run.seeds
    wait_for_all("checkpoints of an earlier start are in order")

    def start(index: int) -> RunState:
        return initial_state(parts, run.steps.source, seeds.seeds[index], index)

    template = jax.eval_shape(lambda: start(0))
    first_member = jax.eval_shape(jax.jit(parts.superposition.init), template.train.ticket)
    template = template._replace(superposition=first_member)
    restored = run.recorder.restore(template)
    if restored is None:
        first = seeds.stack([start(index) for index in range(len(seeds.seeds))])
        method = parts.topology
        explores = method.grows and method.density_at(parts.plan.total_steps) < 1
        lines = parts.timeline.warnings() if explores else []
        if parts.start is not None:
            lines += [
                f"{run.recorder.label(i)}starting at step {parts.first_step} of "
                f"{parts.plan.total_steps} from {start_path(folder)}"
                for i, folder in enumerate(run.recorder.folders)
            ]
        return first, lines
    states, info, lines = restored
    check_same_devices(run, info["step"], info.get("devices"))
    run.clock.go_on(info["clock"])
    step = f"continuing at step {info['step']} of {parts.plan.total_steps}"
    return seeds.stack(states), [*lines, step]


def check_same_devices(run: Run, step: int, before: int | None) -> None:
    """Raise a `CheckpointError` if the steps that are left would compute something else.

    Only batch norm asks: it sees each device's share of a batch, unless it is synchronised. Images
    and masks do not depend on the devices, and what is summed over them differs by its rounding.

    Args:
      run: its parts.
      step: training steps done.
      before: devices that have done them; None if the checkpoint is too old to say so.
    """
    now, parts = run.steps.devices, run.parts
    if parts.share_moments or step == parts.plan.total_steps or before in (None, now):
        return
    raise CheckpointError(
        f"{run.recorder.folders[0].path} was trained on {before} device(s), this start has {now}: "
        "batch norm sees each device's share of a batch (model.sync_batch_norm is False), so the "
        f"run would end elsewhere; continue it on {before}"
    )


def next_stop(run: Run, step: int, runtime: ConfigDict) -> int:
    """Return the step before which the host looks again, by the speed of this process."""
    timeline = run.parts.timeline
    if step == timeline.plan.total_steps or timeline.drop_fraction(step) is not None:
        return step + 1
    most = run.clock.steps_within(runtime.dispatch_seconds)
    left = run.recorder.steps_to_save(step)
    return timeline.stretch_end(step, most if left is None else min(most, left))


def save(run: Run, step: int, state: RunState) -> None:
    """Write a checkpoint of every seed."""
    info = {"clock": run.clock.saved(), "devices": run.steps.devices}
    run.recorder.save(step, run.seeds.split(state), info)


def dispatch(
    run: Run, state: RunState, step: int, stop: int
) -> tuple[RunState, list[dict[str, Any]]]:
    """Run the steps from `step` to before `stop`; return state and mean metrics by seed."""
    timeline, seeds = run.parts.timeline, run.seeds
    rate = timeline.drop_fraction(step)
    begin = time.monotonic()
    state = run.steps.advance(state, stop, rate)
    all_sums = seeds.split(jax.device_get(state.sums))
    check_finite(run, [int(sums["first_bad"]) for sums in all_sums], state, stop - 1)
    run.clock.record(
        "train" if rate is None else "topology",
        steps=stop - step,
        images=(stop - step) * run.parts.batch_size,
        seconds=time.monotonic() - begin,
    )
    densities, explored = run.steps.coverage(state)
    rates = run.steps.learning_rates(state, stop - 1)
    return state, [
        {
            "phase": timeline.phase(step),
            "epoch": stop / timeline.steps_per_epoch,
            "learning_rate": rate,
            "loss": float(sums["loss"] / sums["steps"]),
            "accuracy": float(sums["accuracy"] / sums["steps"]),
            "density": density,
            "exploration_rate": seen,
            "images_per_second": run.clock.images_per_second,
        }
        for sums, rate, density, seen in zip(all_sums, rates, densities, explored, strict=True)
    ]


def check_finite(run: Run, first_bad: Sequence[int], state: RunState, step: int) -> None:
    """Raise a `DivergedError` that names every seed whose loss or weights are not finite.

    Args:
      run: its parts.
      first_bad: the first step of every seed with such a loss.
      state: the state of all seeds after `step`.
      step: the last step that has run.
    """
    finite = run.steps.finite(state)
    lines = {}
    for index, seed in enumerate(run.seeds.seeds):
        if first_bad[index] == NEVER and finite[index]:
            continue
        what, bad = "loss is", first_bad[index]
        if bad == NEVER:
            what, bad = "weights are", step
        kept = run.recorder.newest(index)
        newest = "nothing saved"
        if kept is not None:
            newest = f"the checkpoint of step {kept} is from before it"
        rate = run.steps.learning_rates(state, bad)[index]
        lines[seed] = (
            f"{run.recorder.label(index)}the {what} not finite at step {bad}, "
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
