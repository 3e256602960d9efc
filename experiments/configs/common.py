"""What every config shares: its fields at their defaults, and the argument after the colon.

A config file is a lab note that runs: its docstring holds the command, the hardware, the expected
time and accuracy, and `get_config(arg)` returns the fields. The argument overrides the most used
ones in one word each, `rigl.py:method=set,sparsity=0.9,seed=1,runlocal`; any field can be set with
`--config.<field>=`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from experiments.configs.fields import FIELDS, shown
from experiments.errors import ConfigError
from supjax.checks import KNOWN, some


def base() -> ConfigDict:
    """Return all fields of a run with their defaults, the paper's CIFAR set-ups.

    `fields.FIELDS` says what each one means and may be.

    >>> base().optimizer.milestones
    (0.5, 0.75)
    """
    return _tree({field.name: field.default for field in FIELDS})


def restored(stored: Any) -> ConfigDict:
    """Return the config that a run has stored in its summary and tickets, for use on one device.

    Fields that it did not know get their defaults; what is no longer a field is left out.

    Raises:
      ConfigError: for what is no config.

    >>> restored({"sparsity": 0.8}).sparsity
    0.8
    """
    if not isinstance(stored, Mapping):
        raise ConfigError(f"a stored config must hold fields, got {shown(stored)}")
    values = {}
    for field in FIELDS:
        section, _, key = field.name.rpartition(".")
        group = stored.get(section, {}) if section else stored
        if not isinstance(group, Mapping):
            raise ConfigError(f"{section} of a stored config must hold fields, got {shown(group)}")
        value = group.get(key, field.default)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    values["runtime.devices"] = 1  # whatever the run had
    try:
        return _tree(values)
    except ValueError as error:  # of names with dots
        raise ConfigError(f"a stored config cannot be used: {error}") from error


def _tree(values: Mapping[str, Any]) -> ConfigDict:
    """Return `path -> value` as a config; None stands for a number that is not given."""
    config = ConfigDict()
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = {}
        node = config[section] if section else config
        node[key] = placeholder(float) if value is None else value
    return config


SHORT_NAMES = {
    "method": "method",
    "sparsity": "sparsity",
    "seed": "seed",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "model": "model.name",
    "width": "model.width",
    "dtype": "model.dtype",
    "augment": "augment",
    "drop_decay": "topology.drop_decay",
    "sup": "sup_tickets.enabled",
    "average": "sup_tickets.average",
    "scope": "sup_tickets.scope",
    "exploration": "sup_tickets.exploration",
    "explore_fixed_masks": "sup_tickets.explore_fixed_masks",
    "schedule": "sup_tickets.schedule",
    "target_disagreement": "sup_tickets.target_disagreement",
    "low": "sup_tickets.low",
    "high": "sup_tickets.high",
    "cycle_epochs": "sup_tickets.cycle_epochs",
    "cycle_fraction": "sup_tickets.cycle_fraction",
    "include_pretrained": "sup_tickets.include_pretrained",
    "select": "sup_tickets.select",
    "batch_stats": "sup_tickets.batch_stats",
    "repair": "sup_tickets.repair",
    "start_from": "sup_tickets.start_from",
    "continue_from": "sup_tickets.continue_from",
}
"""Words of a config's argument and the fields that they set."""


def finish(
    config: ConfigDict, arg: str | None, runlocal: Callable[[ConfigDict], None]
) -> ConfigDict:
    """Apply the argument after the colon and lock the config.

    Args:
      config: the config's own fields.
      arg: text after the colon, such as `method=set,seed=1,runlocal`.
      runlocal: turns the config into a smoke run of a minute or two, in place; other words of
        the argument win over it.

    Returns:
      The locked config.

    Raises:
      ValueError: for an unknown word (the known ones are listed) or a value of the wrong type.

    >>> finish(base(), "sparsity=0.9", lambda config: None).sparsity
    0.9
    >>> finish(base(), "sparcity=0.9", lambda config: None)
    Traceback (most recent call last):
      ...
    ValueError: unknown config argument 'sparcity'; known: augment, average, ...
    """
    words = dict(_split(word) for word in (arg or "").split(",") if word.strip())
    for name in words:
        if name not in SHORT_NAMES and name != "runlocal":
            known = some(sorted([*SHORT_NAMES, "runlocal"]), KNOWN)
            raise ValueError(f"unknown config argument {name!r}; known: {known}")
    if _boolean("runlocal", words.pop("runlocal", "false")):
        runlocal(config)
    for name, text in words.items():
        path = SHORT_NAMES[name]
        parent, _, field = path.rpartition(".")
        node = config[parent] if parent else config
        node[field] = _convert(name, text, type(node[field]))
    return config.lock()


def _split(word: str) -> tuple[str, str]:
    name, equals, value = word.strip().partition("=")
    return name, value if equals else "true"


def _convert(name: str, text: str, kind: type) -> object:
    if kind is bool:
        return _boolean(name, text)
    try:
        return kind(text)
    except ValueError:
        raise ValueError(
            f"config argument {name} must be of type {kind.__name__}, got {text!r}"
        ) from None


def _boolean(name: str, text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise ValueError(f"config argument {name} must be true or false, got {text!r}")
    return values[text.lower()]
