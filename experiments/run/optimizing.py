"""From a config to its learning rates and its optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

import supjax
from supjax.adaptive import AdaptiveSchedule
from supjax.allocation import exact
from supjax.trees import path_str
from supjax.types import PyTree, Schedule

ADAPTIVE = "adaptive"
"""The schedule whose cycles follow what the last one did."""


def normal_rate(config: ConfigDict, plan: supjax.CyclePlan, steps_per_epoch: int) -> Schedule:
    """Return the learning rate of the normal phase, a step decay."""
    fields = config.optimizer
    normal_epochs = plan.normal_steps // steps_per_epoch
    boundaries = [
        int(exact(m) * normal_epochs if m < 1 else m) * steps_per_epoch for m in fields.milestones
    ]
    return supjax.step_decay_schedule(
        fields.learning_rate,
        boundaries,
        factor=fields.decay_factor,
        warmup_steps=fields.warmup_epochs * steps_per_epoch,
    )


def learning_rate_schedule(
    config: ConfigDict, plan: supjax.CyclePlan, steps_per_epoch: int
) -> Callable[..., Any]:
    """Return the one schedule of both phases, `(step, high) -> rate`; see `RunParts`."""
    normal, sup = normal_rate(config, plan, steps_per_epoch), config.sup_tickets
    cycle = "triangular" if sup.schedule == ADAPTIVE else sup.schedule

    def schedule(step: Any, high: Any = sup.high) -> Any:
        return supjax.sup_tickets_schedule(normal, plan, sup.low, high, cycle=cycle)(step)

    schedule(0)  # raises what is wrong with it
    return schedule


def optimizer(
    config: ConfigDict, learning_rate: Schedule | AdaptiveSchedule
) -> optax.GradientTransformation:
    """Return SGD with momentum and weight decay added to the gradient, as PyTorch does."""
    fields, sgd = config.optimizer, optax.sgd
    if isinstance(learning_rate, AdaptiveSchedule):
        sgd = optax.inject_hyperparams(optax.sgd, static_args=("momentum",))
    return optax.chain(
        optax.add_decayed_weights(
            fields.weight_decay, None if fields.decay_batch_norm else without_batch_norm
        ),
        sgd(learning_rate, momentum=fields.momentum or None),
    )


def without_batch_norm(params: PyTree) -> PyTree:
    """Return True on every leaf but batch norm's: its `scale`, and the `bias` beside one."""
    paths = [path_str(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    norms = {path.removesuffix("/scale") for path in paths if path.endswith("/scale")}
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path_str(path).rpartition("/")[0] not in norms, params
    )
