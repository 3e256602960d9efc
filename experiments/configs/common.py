"""What every config shares: the fields with their defaults, and the argument after the colon.

A config file is a lab note that runs: its docstring holds the command, the hardware, the expected
time and accuracy, and `get_config(arg)` returns the fields. The argument overrides the most used
ones in one word each, `rigl.py:method=set,sparsity=0.9,seed=1,runlocal`; any field can be set with
`--config.<field>=`.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict


def base() -> ConfigDict:
    """Return the fields of a run with the defaults of the paper's CIFAR set-ups."""
    return ConfigDict(
        {
            "seed": 0,
            "dataset": "cifar10",
            "validation_size": 5_000,  # examples taken from the training split
            "augment": True,
            "model": {
                "name": "vgg16",
                "width": 1.0,
                "dtype": "float32",
                "sync_batch_norm": False,  # True: batch moments over all devices together
            },
            "batch_size": 128,  # over all devices together
            "epochs": 250,
            "method": "rigl",
            "sparsity": 0.95,
            "topology": {
                "distribution": "erk",
                "update_every": 1_000,  # steps
                "drop_fraction": 0.5,
                "drop_decay": "constant",  # or "cosine", to 0 at the end of the normal phase
                "options": {},
                "initial_sparsity": 0.5,  # granet; gmp starts dense
                "ramp_epochs": (0, 110),  # granet and gmp
                "init_batches": 1,  # snip and grasp
            },
            "optimizer": {
                "learning_rate": 0.1,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "decay_batch_norm": True,
                "milestones": (0.5, 0.75),  # below 1: shares of the normal phase; else epochs
                "decay_factor": 0.1,
                "warmup_epochs": 0,
                "label_smoothing": 0.0,
            },
            "sup_tickets": {
                "enabled": True,
                "cycle_fraction": 0.1,
                "cycle_epochs": 8,
                "schedule": "triangular",  # or "sawtooth", "constant"
                "low": 0.001,
                "high": 0.005,
                "exploration": 0.5,
                "explore_fixed_masks": True,  # hosts without a grow rule explore as RigL does
                "options": {},
                "average": "cia",
                "beta": 0.5,  # cima only
                "scope": "global",
                "include_pretrained": True,
                "batch_stats": "average",  # or "recompute"
                "recompute_batches": 0,  # 0: one pass over the training split
            },
            "eval_every_epochs": 1,
            "logs_per_epoch": 4,  # lines of training metrics
            "deterministic": True,  # on GPUs too, where it costs some speed
            "runtime": {  # nothing here changes a result; a resumed run may change it
                "data_dir": "",
                "devices": 0,  # 0: all local devices
                "loop": "auto",  # "fused", "stepwise": many steps or one in a dispatch
                "dispatch_seconds": 2.0,  # longest wait for progress and for Ctrl-C
                "checkpoint_every_minutes": 10.0,
                "checkpoint_every_steps": 0,  # 0: by time alone
                "keep_checkpoints": 3,
                "compilation_cache": "auto",  # a folder, or "off"
                "decode_workers": 0,  # streamed data; 0: one per processor
                "corrupt_images": "error",  # or "skip"
                "tensorboard": True,
                "plots": True,
            },
        }
    )


def restored(stored: dict[str, Any]) -> ConfigDict:
    """Return the config that a run has stored in its summary and tickets, for use on one device.

    >>> restored({"sparsity": 0.8}).sparsity
    0.8
    """
    config = base()
    config.update(stored)
    config.runtime.devices = 1  # whatever the run had
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
    "sup": "sup_tickets.enabled",
    "average": "sup_tickets.average",
    "scope": "sup_tickets.scope",
    "exploration": "sup_tickets.exploration",
    "explore_fixed_masks": "sup_tickets.explore_fixed_masks",
    "schedule": "sup_tickets.schedule",
    "low": "sup_tickets.low",
    "high": "sup_tickets.high",
    "cycle_epochs": "sup_tickets.cycle_epochs",
    "cycle_fraction": "sup_tickets.cycle_fraction",
    "include_pretrained": "sup_tickets.include_pretrained",
    "batch_stats": "sup_tickets.batch_stats",
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
            known = ", ".join(sorted([*SHORT_NAMES, "runlocal"]))
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
