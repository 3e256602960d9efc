"""From a config to the static parts of a run.

With `optimizing` the only reader of the config, but for its group `runtime`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import supjax
from experiments.data.arrays import ArrayDataset
from experiments.data.loading import load_dataset
from experiments.data.streaming import StreamedDataset
from experiments.errors import ConfigError
from experiments.models import create_model
from experiments.models.fits import network_shapes
from experiments.records.folder import RunFolder
from experiments.run.averages import Shares, share_schedules
from experiments.run.cycles import Adaptation, measured_batches
from experiments.run.losses import make_loss_fn
from experiments.run.optimizing import ADAPTIVE, learning_rate_schedule, normal_rate, optimizer
from experiments.run.start import Start, start_of
from experiments.run.timeline import STEPS_A_SHARE, Timeline
from supjax.adaptive import adaptive_schedule
from supjax.allocation import budget
from supjax.superposition import SUPERPOSITIONS
from supjax.topologies import METHODS
from supjax.trees import named_leaves
from supjax.types import PyTree, Superposition, TopologyTransform

AXIS = "batch"
"""Name of the device axis of a run on several devices."""

Dataset = ArrayDataset | StreamedDataset


class RunParts(NamedTuple):
    """What a run is made of; the same for all of its seeds.

    Attributes:
      dataset: its data set.
      batch_size: over all devices together.
      augment: whether training images are augmented.
      timeline: both phases, and what happens at which step.
      model: a linen module.
      topology: the base method.
      tx: the optimizer.
      learning_rate: the one schedule of both phases, `(step, high) -> rate`; without `high` the
        cycles rise to the config's.
      shapes: shapes and types of the network's variables.
      loss_fn: of `supjax.make_train_step`.
      parallel_loss_fn: the same for use under `AXIS`.
      share_moments: whether batch norm sees the whole batch on several devices, or there is none.
      init_batches: training batches on which a method scores the network at the start.
      superposition: the averaging rule.
      include_pretrained: whether the end of the normal phase is its first member.
      scope: of pruning back, "global" or "layer".
      select: rule that chooses the result on held-out examples, "none" for the superposition.
      recompute_batches: training batches from which a superposed network's batch-norm statistics
        are estimated; None to average those of its members.
      repair: whether the superposition gets its members' activations back at the end.
      continue_superposed: whether a cycle goes on from the superposition instead of its ticket.
      shares: of the averages of the weights that the run keeps as baselines, by name.
      adaptation: of cycles that follow what the last one did; None for fixed ones.
      start: the networks of the seeds that the cyclic phase starts from; None for a run that has
        its own normal phase.
    """

    dataset: Dataset
    batch_size: int
    augment: bool
    timeline: Timeline
    model: Any
    topology: TopologyTransform
    tx: optax.GradientTransformation
    learning_rate: Callable[..., Any]
    shapes: PyTree
    loss_fn: Callable[..., Any]
    parallel_loss_fn: Callable[..., Any]
    share_moments: bool
    init_batches: int
    superposition: Superposition
    include_pretrained: bool
    scope: str
    select: str
    recompute_batches: int | None
    repair: bool
    continue_superposed: bool
    shares: Shares
    adaptation: Adaptation | None
    start: Start | None

    @property
    def plan(self) -> supjax.CyclePlan:
        """The two phases."""
        return self.timeline.plan

    @property
    def first_step(self) -> int:
        """The step at which a fresh run starts."""
        return 0 if self.start is None else self.plan.normal_steps

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in one epoch."""
        return self.timeline.steps_per_epoch


def open_dataset(config: ConfigDict) -> Dataset:
    """Return the config's data set.

    Raises:
      ConfigError: if it is missing or too small for the config; the line says what to do.
    """
    try:
        dataset = load_dataset(
            config.dataset,
            data_dir=config.runtime.data_dir or None,
            validation_size=config.validation_size,
            on_corrupt=config.runtime.corrupt_images,
        )
        dataset.steps_per_epoch(config.batch_size)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error
    return dataset


def build(config: ConfigDict, dataset: Dataset, folders: Sequence[RunFolder] = ()) -> RunParts:
    """Return the static parts of a run of this config on this data set.

    Args:
      config: a checked one.
      dataset: its data set.
      folders: those of the seeds that are to train, whose networks a run with
        `sup_tickets.start_from` needs; without them nothing can be trained from there.

    Raises:
      ConfigError: if they do not fit together; nothing is compiled yet.
    """
    steps_per_epoch = dataset.steps_per_epoch(config.batch_size)
    check_steps(config, steps_per_epoch)
    smoothing = config.optimizer.label_smoothing
    sup = config.sup_tickets
    try:
        plan = cycle_plan(config, steps_per_epoch)
        learning_rate = learning_rate_schedule(config, plan, steps_per_epoch)
        normal = normal_rate(config, plan, steps_per_epoch)
        rates = adaptive_schedule(normal, plan, sup.low, sup.high)
        adaptation = adaptation_of(config, dataset, steps_per_epoch)
        model = create_model(
            config.model.name,
            dataset.num_classes,
            width=config.model.width,
            dtype=jnp.dtype(config.model.dtype),
        )
        shapes = network_shapes(model, dataset.image_shape)
        masks = jax.eval_shape(supjax.dense_masks, shapes["params"])
        check_sparsity(config, supjax.count_maskable(masks))
        start = start_of(folders, shapes, target_density(config)) if sup.start_from else None
        density = None if start is None else start.density
        method = topology(config, plan, steps_per_epoch, density)
        share = sup.exploration
        if adaptation is not None:
            share = min(share, plan.cycle_steps / STEPS_A_SHARE) if method.grows else 0.0
            method = supjax.with_cycles(method, plan, share, exploration_in_state=True)
        if sup.repair:
            check_repairable(config.model.name, model, shapes, dataset.image_shape)
        synced = model.clone(axis_name=AXIS) if config.model.sync_batch_norm else model
        return RunParts(
            dataset=dataset,
            batch_size=config.batch_size,
            augment=config.augment,
            timeline=Timeline(
                plan,
                supjax.with_cycles(method, plan, share),
                steps_per_epoch,
                eval_every=config.eval_every_epochs * steps_per_epoch,
                log_every=max(steps_per_epoch // config.logs_per_epoch, 1),
            ),
            model=model,
            topology=method,
            tx=optimizer(config, learning_rate if adaptation is None else rates),
            learning_rate=learning_rate,
            shapes=shapes,
            loss_fn=make_loss_fn(model, smoothing),
            parallel_loss_fn=make_loss_fn(synced, smoothing),
            share_moments=config.model.sync_batch_norm or "batch_stats" not in shapes,
            init_batches=config.topology.init_batches,
            superposition=superposition(config, density),
            include_pretrained=sup.include_pretrained,
            scope=sup.scope,
            select=sup.select,
            recompute_batches=recompute_batches(config, steps_per_epoch),
            repair=sup.repair,
            continue_superposed=sup.continue_from == "superposed",
            shares=share_schedules(config.baselines.ema, config.baselines.tail, plan),
            adaptation=adaptation,
            start=start,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def check_sparsity(config: ConfigDict, weights: int) -> None:
    """Raise a `ConfigError` if the config's sparsity leaves none of a network's sparse weights.

    Args:
      config: a checked one.
      weights: how many there are, of all layers that can be sparse together.

    >>> check_sparsity(ConfigDict({"method": "set", "sparsity": 0.9999}), 1000)
    Traceback (most recent call last):
      ...
    experiments.errors.ConfigError: sparsity must leave a weight of the network's 1000, got 0.9999
    """
    if not budget(target_density(config), weights):
        raise ConfigError(
            f"sparsity must leave a weight of the network's {weights}, got {config.sparsity}"
        )


def check_repairable(name: str, model: Any, shapes: PyTree, image_shape: Any) -> None:
    """Raise a `ConfigError` if not every kernel's pre-activations can be found in a network."""
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    layers = supjax.linen_preactivations(model, train=True)
    found = jax.eval_shape(layers, {"batch_stats": {}, **shapes}, images)
    kernels = named_leaves(jax.eval_shape(supjax.dense_masks, shapes["params"]))
    missing = [path for path, mask in kernels.items() if mask is not None and path not in found]
    if missing:
        raise ConfigError(
            f"sup_tickets.repair must be False for model.name {name}: what its layer "
            f"{missing[0]!r} yields cannot be found"
        )


def check_steps(config: ConfigDict, steps_per_epoch: int) -> None:
    """Raise a `ConfigError` if a run has more steps than its counter can count.

    >>> check_steps(ConfigDict({"epochs": 10**6}), 10_000)
    Traceback (most recent call last):
      ...
    experiments.errors.ConfigError: epochs must be at most 214748 at 10000 steps each, got 1000000
    """
    most = np.iinfo(np.int32).max // steps_per_epoch
    if config.epochs > most:
        raise ConfigError(
            f"epochs must be at most {most} at {steps_per_epoch} steps each, got {config.epochs}"
        )


def cycle_plan(config: ConfigDict, steps_per_epoch: int) -> supjax.CyclePlan:
    """Return the two phases; without Sup-tickets the whole budget is the normal phase."""
    sup = config.sup_tickets
    return supjax.CyclePlan.from_epochs(
        config.epochs,
        cycle_fraction=sup.cycle_fraction if sup.enabled else 0,
        cycle_epochs=(sup.cycle_epochs or None) if sup.enabled else None,
        steps_per_epoch=steps_per_epoch,
    )


def recompute_batches(config: ConfigDict, steps_per_epoch: int) -> int | None:
    """Return how many batches re-estimate batch norm, at most an epoch; None if none do."""
    fields = config.sup_tickets
    if fields.batch_stats != "recompute":
        return None
    return min(fields.recompute_batches or steps_per_epoch, steps_per_epoch)


def adaptation_of(config: ConfigDict, dataset: Dataset, steps_per_epoch: int) -> Adaptation | None:
    """Return aim and bounds of cycles that adapt, or None for fixed ones.

    Raises:
      ConfigError: if there are too few images to see the disagreement that is aimed at.
    """
    sup, rate = config.sup_tickets, config.optimizer.learning_rate
    if not (sup.enabled and sup.schedule == ADAPTIVE):
        return None
    images, target = dataset.sizes["validation"], sup.target_disagreement
    if not images:
        images = config.batch_size * measured_batches(config.batch_size, steps_per_epoch)
    if images * target < 1:
        raise ConfigError(
            f"sup_tickets.target_disagreement must be at least one of the {images} images that "
            f"tickets are compared on, {1 / images:.2g}, got {target}"
        )
    return Adaptation(target, sup.low, max(rate, sup.high), sup.exploration)


RAMP_OVER = {"ramp_start": 0, "ramp_end": 1}
"""Arguments of a method whose density has come to where it stays."""


def topology(
    config: ConfigDict,
    plan: supjax.CyclePlan,
    steps_per_epoch: int,
    density: float | None = None,
) -> TopologyTransform:
    """Return the base method, given those of the config's fields that it takes.

    Args:
      config: a checked one.
      plan: the two phases.
      steps_per_epoch: training steps in one epoch.
      density: of a network that training goes on with, where a ramp is over; None for the
        config's.

    Raises:
      ConfigError: if a density ramp would not come to its end within the normal phase.
    """
    fields = config.topology
    rate: Any = fields.drop_fraction
    if fields.drop_decay == "cosine":
        rate = supjax.cosine_fraction(rate, plan.normal_steps)
    factory = METHODS[config.method]
    first, last = fields.ramp_epochs
    offered = {
        "density": target_density(config),
        "distribution": fields.distribution,
        "update_every": fields.update_every,
        "drop_fraction": rate,
        "ramp_start": first * steps_per_epoch,
        "ramp_end": last * steps_per_epoch,
    }
    parameters = inspect.signature(factory).parameters
    if "stop" in parameters and parameters["stop"].default is inspect.Parameter.empty:
        offered["stop"] = plan.normal_steps
    if fields.initial_sparsity is not None:
        offered["initial_density"] = round(1 - fields.initial_sparsity, 12)
    options = dict(fields.options)
    if density is not None:
        over = {"density": density, "initial_density": density, **RAMP_OVER}
        offered |= over
        options = {name: value for name, value in options.items() if name not in over}
    method: TopologyTransform = _call(factory, offered, options)
    last_update = next((s for s in reversed(range(plan.normal_steps)) if method.due(s)), -1)
    if method.density_at(last_update + 1) != method.density_at(plan.total_steps):
        raise ConfigError(
            f"topology.ramp_epochs and update_every must let the ramp end within the normal phase "
            f"of {plan.normal_steps} steps, got {tuple(fields.ramp_epochs)} epochs of "
            f"{steps_per_epoch} steps, updated every {fields.update_every} steps"
        )
    if not method.grows and config.sup_tickets.explore_fixed_masks:
        return supjax.topologies.exploring(method)
    return method


def superposition(config: ConfigDict, density: float | None = None) -> Superposition:
    """Return the averaging rule, given those of the config's fields that it takes.

    Args:
      config: a checked one.
      density: to prune back to; None for the config's.
    """
    fields = config.sup_tickets
    density = target_density(config) if density is None else density
    offered = {"density": density, "scope": fields.scope, "beta": fields.beta}
    return _call(SUPERPOSITIONS[fields.average], offered, fields.options)


def _call(
    factory: Callable[..., Any], offered: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """Call a factory with what it takes of the config's fields, its own options first."""
    taken = inspect.signature(factory).parameters
    return factory(**{k: v for k, v in offered.items() if k in taken} | dict(options))


def target_density(config: ConfigDict) -> float:
    """Return the density of the networks of a run; superposition prunes back to it."""
    return round(1 - config.sparsity, 12) if is_sparse(config.method) else 1.0


def is_sparse(method: str) -> bool:
    """Say whether a method has a density to keep to; dense training has none.

    >>> is_sparse("rigl"), is_sparse("dense")
    (True, False)
    """
    return "density" in inspect.signature(METHODS[method]).parameters
