"""Checks of a whole config before any data is loaded or anything is compiled."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from experiments.data.catalog import KNOWN_SETS
from experiments.errors import ConfigError
from experiments.models import MODEL_NAMES
from supjax.allocation import exact
from supjax.densities import DISTRIBUTIONS
from supjax.schedules import CYCLES
from supjax.superposition import SCOPES, SUPERPOSITIONS
from supjax.topologies import METHODS


def check_config_values(config: ConfigDict) -> None:
    """Raise a one-line `ConfigError` naming the field, its value and what is allowed.

    Data set names beyond the known ones pass: TFDS may hold them.
    """
    sup, topology, optimizer, runtime = (
        config[name] for name in ("sup_tickets", "topology", "optimizer", "runtime")
    )
    _one_of("method", config.method, METHODS)
    _one_of("model.name", config.model.name, MODEL_NAMES)
    _one_of("model.dtype", config.model.dtype, ("float32", "bfloat16"))
    _one_of("topology.distribution", topology.distribution, DISTRIBUTIONS)
    _one_of("topology.drop_decay", topology.drop_decay, ("constant", "cosine"))
    _one_of("sup_tickets.average", sup.average, SUPERPOSITIONS)
    _one_of("sup_tickets.scope", sup.scope, SCOPES)
    _one_of("sup_tickets.schedule", sup.schedule, CYCLES)
    _one_of("sup_tickets.batch_stats", sup.batch_stats, ("average", "recompute"))
    _one_of("runtime.loop", runtime.loop, ("auto", "fused", "stepwise"))
    _one_of("runtime.corrupt_images", runtime.corrupt_images, ("error", "skip"))
    if not config.dataset:
        raise ConfigError(f"dataset must be named, such as {', '.join(sorted(KNOWN_SETS))}")

    _within("sparsity", config.sparsity, "[0, 1)", lambda x: 0 <= x < 1)
    for name, value in (
        ("topology.drop_fraction", topology.drop_fraction),
        ("sup_tickets.exploration", sup.exploration),
        ("sup_tickets.cycle_fraction", sup.cycle_fraction),
        ("sup_tickets.beta", sup.beta),
        ("optimizer.label_smoothing", optimizer.label_smoothing),
    ):
        _within(name, value, "[0, 1]", lambda x: 0 <= x <= 1)
    for name, value in (
        ("batch_size", config.batch_size),
        ("epochs", config.epochs),
        ("eval_every_epochs", config.eval_every_epochs),
        ("logs_per_epoch", config.logs_per_epoch),
        ("topology.update_every", topology.update_every),
        ("topology.init_batches", topology.init_batches),
        ("sup_tickets.cycle_epochs", sup.cycle_epochs),
        ("runtime.keep_checkpoints", runtime.keep_checkpoints),
    ):
        _within(name, value, "an integer of at least 1", lambda x: isinstance(x, int) and x >= 1)
    for name, value in (
        ("validation_size", config.validation_size),
        ("optimizer.learning_rate", optimizer.learning_rate),
        ("optimizer.weight_decay", optimizer.weight_decay),
        ("optimizer.momentum", optimizer.momentum),
        ("optimizer.warmup_epochs", optimizer.warmup_epochs),
        ("sup_tickets.low", sup.low),
        ("sup_tickets.recompute_batches", sup.recompute_batches),
        ("runtime.devices", runtime.devices),
        ("runtime.dispatch_seconds", runtime.dispatch_seconds),
        ("runtime.checkpoint_every_minutes", runtime.checkpoint_every_minutes),
        ("runtime.checkpoint_every_steps", runtime.checkpoint_every_steps),
        ("runtime.decode_workers", runtime.decode_workers),
    ):
        _within(name, value, "at least 0", lambda x: x >= 0)
    _within("model.width", config.model.width, "above 0", lambda x: x > 0)
    _within("optimizer.decay_factor", optimizer.decay_factor, "(0, 1]", lambda x: 0 < x <= 1)
    _check_phases(config)


def _check_phases(config: ConfigDict) -> None:
    """Check that the parts of the run fit into each other."""
    sup = config.sup_tickets
    if sup.enabled:
        if sup.low > sup.high:
            raise ConfigError(
                f"sup_tickets.low must not exceed sup_tickets.high, got {sup.low} > {sup.high}"
            )
        if sup.cycle_epochs > config.epochs:
            raise ConfigError(
                f"sup_tickets.cycle_epochs must not exceed the run's {config.epochs} epochs, "
                f"got {sup.cycle_epochs}"
            )
        cyclic = int(config.epochs * exact(sup.cycle_fraction))
        if cyclic - cyclic % sup.cycle_epochs == config.epochs:
            raise ConfigError(
                "sup_tickets.cycle_fraction must leave epochs for the normal phase, "
                f"got {sup.cycle_fraction}"
            )
    if "ramp_end" in inspect.signature(METHODS[config.method]).parameters:
        _check_ramp(config)


def _check_ramp(config: ConfigDict) -> None:
    first, last = config.topology.ramp_epochs
    if not 0 <= first < last <= config.epochs:
        raise ConfigError(
            "topology.ramp_epochs must ascend within the run's "
            f"{config.epochs} epochs, got {tuple(config.topology.ramp_epochs)}"
        )
    if config.method == "granet" and config.topology.initial_sparsity > config.sparsity:
        raise ConfigError(
            f"topology.initial_sparsity must not exceed sparsity {config.sparsity}, "
            f"got {config.topology.initial_sparsity}"
        )


def check_devices(config: ConfigDict, process_count: int, local_devices: int) -> int:
    """Return the number of devices to use in this process, if the batch divides by all of them.

    Raises:
      ConfigError: if more are asked for than there are, some of those of several processes, or the
        batch does not divide.
    """
    if process_count > 1 and config.runtime.devices:
        raise ConfigError(
            f"runtime.devices must be 0, all, for {process_count} processes, "
            f"got {config.runtime.devices}"
        )
    wanted = config.runtime.devices or local_devices
    if wanted > local_devices:
        raise ConfigError(
            f"runtime.devices is {wanted}, but this process has {local_devices} "
            f"{jax.default_backend()} device(s)"
        )
    if config.batch_size % (wanted * process_count):
        raise ConfigError(
            f"batch_size must divide by the {wanted * process_count} device(s) in use, "
            f"got {config.batch_size}"
        )
    return wanted


def _one_of(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(sorted(allowed))}; got {value!r}")


def _within(name: str, value: Any, text: str, inside: Callable[[Any], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not inside(value):
        raise ConfigError(f"{name} must be {'in ' if text[0] in '[(' else ''}{text}, got {value!r}")
