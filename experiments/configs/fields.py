"""The fields of a run in one table: default, what is allowed, what it means.

`FIELDS` is the only place where a field is named: `common.base` is built from it, the checks of
`rules` read it, and `describe_fields` prints it.
"""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.data.catalog import KNOWN_SETS
from experiments.models import MODEL_NAMES
from experiments.paths import is_address
from supjax.adaptive import TARGET_DISAGREEMENT
from supjax.checks import KNOWN, some
from supjax.densities import DISTRIBUTIONS
from supjax.schedules import CYCLES
from supjax.superposition import SCOPES, SUPERPOSITIONS
from supjax.superposition.scored import LEAST_IMAGES, RULES
from supjax.topologies import METHODS

INT32 = 2**31 - 1
"""Largest count of a compiled step, and of the weights of a network."""

FLOAT32 = 1e38
"""Largest number that a compiled step can still double."""

MANY = 1_000_000
"""More epochs or batches than any run has."""


class Rule(NamedTuple):
    """What one field may be: words that follow "must be", and the check of any value at all."""

    allowed: str
    holds: Callable[[Any], bool]


class Field(NamedTuple):
    """One field: its dotted path, default, rule, and what it means where its name does not say."""

    name: str
    default: Any
    rule: Rule
    comment: str = ""


def is_whole(value: Any) -> bool:
    """Say whether a value is an integer and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Say whether a value is an integer or a finite float."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def is_plain(value: Any) -> bool:
    """Say whether a value can be an option: what JSON holds and a compiled step can count with.

    >>> [is_plain(value) for value in (0.5, "erk", None, (1, 2), 2**31, float("nan"), {})]
    [True, True, True, True, False, False, False]
    """
    if isinstance(value, tuple | list):
        return all(not isinstance(x, tuple | list) and is_plain(x) for x in value)
    if is_whole(value):
        return abs(value) <= INT32
    if isinstance(value, float):
        return abs(value) <= FLOAT32
    return value is None or isinstance(value, bool | str)


def shown(value: Any) -> str:
    """Return a value as one short line, whatever it is.

    >>> len(shown("a" * 100)), shown(0.5)
    (60, '0.5')
    """
    try:
        line = " ".join(repr(value).split())
    except Exception:  # an integer of thousands of digits, and whatever a foreign repr raises
        line = f"a value of type {type(value).__name__}"
    return line if len(line) <= 60 else f"{line[:57]}..."


def whole(low: int, high: int = INT32) -> Rule:
    """Return the rule of a count, both bounds included; a bool is none, nor is 3.0."""
    return Rule(f"an integer in [{low}, {high}]", lambda x: is_whole(x) and low <= x <= high)


def number(interval: str) -> Rule:
    """Return the rule of a finite number, from an interval as it is written.

    >>> [number("[0, 1)").holds(x) for x in (0, 0.5, 1, float("nan"), True, "0.5")]
    [True, True, False, False, False, False]
    """
    low, high = map(float, interval[1:-1].split(","))
    if interval[0] == "(":
        low = math.nextafter(low, math.inf)
    if interval[-1] == ")":
        high = math.nextafter(high, -math.inf)
    return Rule(f"in {interval}", lambda x: is_number(x) and low <= x <= high)


def one_of(names: Iterable[str]) -> Rule:
    """Return the rule of a choice."""
    known = sorted(names)
    return Rule(f"one of {some(known, KNOWN)}", lambda x: isinstance(x, str) and x in known)


def text(allowed: str, least: int = 1) -> Rule:
    """Return the rule of a text of one line, with the least number of characters."""
    return Rule(allowed, lambda x: isinstance(x, str) and x.isprintable() and len(x) >= least)


def place(allowed: str, least: int = 1) -> Rule:
    """Return the rule of a path of this machine."""
    return Rule(allowed, lambda x: text(allowed, least).holds(x) and not is_address(x))


TRUTH = Rule("True or False", lambda x: isinstance(x, bool))
SHARE = number("[0, 1]")
RATE = number("[0, 1e38]")
OWN_OR_SPARSITY = Rule("in [0, 1) or None", lambda x: x is None or (is_number(x) and 0 <= x < 1))
OPTIONS = Rule(
    "names with plain values: numbers below 2**31, text, True, False, None, tuples of them",
    lambda x: isinstance(x, ConfigDict) and all(is_plain(value) for value in x.values()),
)


def _are_epochs(values: Any) -> bool:
    return _is_tuple(values, 2, 2) and all(is_whole(x) and 0 <= x <= MANY for x in values)


def _are_milestones(values: Any) -> bool:
    if not (_is_tuple(values, 0, 1000) and all(map(is_number, values))):
        return False
    shares = all(0 <= x < 1 for x in values)
    epochs = all(1 <= x <= MANY and x == int(x) for x in values)
    return (shares or epochs) and all(a < b for a, b in pairwise(values))


def _is_tuple(value: Any, least: int, most: int) -> bool:
    return isinstance(value, tuple | list) and least <= len(value) <= most


FIELDS = (
    Field("seed", 0, whole(0, 2**32 - 1)),
    Field("dataset", "cifar10", text(f"named, such as {some(sorted(KNOWN_SETS))}")),
    Field("validation_size", 5_000, whole(0), "examples taken from the training split"),
    Field("augment", True, TRUTH),
    Field("model.name", "vgg16", one_of(MODEL_NAMES)),
    Field("model.width", 1.0, number("(0, 100]"), "multiple of every layer's channels"),
    Field("model.dtype", "float32", one_of(("float32", "bfloat16"))),
    Field("model.sync_batch_norm", False, TRUTH, "batch moments over all devices together"),
    Field("batch_size", 128, whole(1, MANY), "over all devices together"),
    Field("epochs", 250, whole(1, MANY), "of both phases"),
    Field("method", "rigl", one_of(METHODS)),
    Field("sparsity", 0.95, number("[0, 1)")),
    Field("topology.distribution", "erk", one_of(DISTRIBUTIONS), "layer densities of the start"),
    Field("topology.update_every", 1_000, whole(1), "steps"),
    Field("topology.drop_fraction", 0.5, SHARE, "of the weights that an update moves"),
    Field(
        "topology.drop_decay",
        "constant",
        one_of(("constant", "cosine")),
        "cosine: to 0 at the end of the normal phase",
    ),
    Field(
        "topology.initial_sparsity",
        None,
        OWN_OR_SPARSITY,
        "at which a ramp starts; None: the method's own (granet 0.5, gmp 0.0)",
    ),
    Field("topology.ramp_epochs", (0, 110), Rule(f"two integers in [0, {MANY}]", _are_epochs)),
    Field("topology.init_batches", 1, whole(1, 1000), "snip and grasp"),
    Field("topology.options", {}, OPTIONS, "arguments of the method; they win over other fields"),
    Field("optimizer.learning_rate", 0.1, RATE),
    Field("optimizer.momentum", 0.9, number("[0, 1)")),
    Field("optimizer.weight_decay", 5e-4, number("[0, 1000]")),
    Field("optimizer.decay_batch_norm", True, TRUTH),
    Field(
        "optimizer.milestones",
        (0.5, 0.75),
        Rule(f"ascending, all in [0, 1) or all integers in [1, {MANY}]", _are_milestones),
        "below 1: shares of the normal phase; else epochs",
    ),
    Field("optimizer.decay_factor", 0.1, number("(0, 1]"), "of the rate at every milestone"),
    Field("optimizer.warmup_epochs", 0, whole(0, MANY)),
    Field("optimizer.label_smoothing", 0.0, SHARE),
    Field("sup_tickets.enabled", True, TRUTH),
    Field("sup_tickets.cycle_fraction", 0.1, SHARE, "of the epochs, cut to whole cycles"),
    Field(
        "sup_tickets.cycle_epochs",
        0,
        whole(0, MANY),
        "0: a third of the cycles' epochs, at least 1",
    ),
    Field(
        "sup_tickets.schedule",
        "triangular",
        one_of(("adaptive", *CYCLES)),
        "of the rate in a cycle; adaptive: triangles, each as high as the last ticket asks for",
    ),
    Field("sup_tickets.low", 0.001, RATE, "rate at the ends of a cycle"),
    Field("sup_tickets.high", 0.005, RATE, "rate at its middle; adaptive: of the first cycle"),
    Field(
        "sup_tickets.exploration",
        0.5,
        SHARE,
        "of the weights that a cycle moves; adaptive: at most",
    ),
    Field(
        "sup_tickets.target_disagreement",
        TARGET_DISAGREEMENT,
        number("(0, 1)"),
        "adaptive: share of images on which neighbouring tickets should differ",
    ),
    Field(
        "sup_tickets.explore_fixed_masks",
        True,
        TRUTH,
        "base methods without a grow rule explore as RigL does",
    ),
    Field("sup_tickets.average", "cia", one_of(SUPERPOSITIONS)),
    Field("sup_tickets.beta", 0.5, SHARE, "cima only"),
    Field("sup_tickets.scope", "global", one_of(SCOPES), "of pruning back to the sparsity"),
    Field("sup_tickets.include_pretrained", True, TRUTH),
    Field(
        "sup_tickets.select",
        "none",
        one_of(("none", *RULES)),
        "what takes the result on validation examples; none: the superposition",
    ),
    Field(
        "sup_tickets.force_select",
        False,
        TRUTH,
        f"with fewer than {LEAST_IMAGES} validation examples",
    ),
    Field(
        "sup_tickets.batch_stats",
        "recompute",
        one_of(("average", "recompute")),
        "of the members, or new from training batches",
    ),
    Field(
        "sup_tickets.recompute_batches",
        50,
        whole(0, MANY),
        "training batches, at most an epoch; 0: an epoch",
    ),
    Field(
        "sup_tickets.repair",
        False,
        TRUTH,
        "give the superposition its members' activations back, by training batches",
    ),
    Field("sup_tickets.options", {}, OPTIONS, "arguments of the average; they win over fields"),
    Field(
        "sup_tickets.start_from",
        "",
        place("a ticket file or the folder of a finished run on this machine, or empty", least=0),
        "the cyclic phase alone, on its network; {seed} stands for the seed",
    ),
    Field(
        "sup_tickets.continue_from",
        "ticket",
        one_of(("ticket", "superposed")),
        "the network that the next cycle goes on with",
    ),
    Field(
        "baselines.ema",
        0.0,
        number("[0, 1)"),
        "decay of a moving average of the weights, scored at the end; 0: none",
    ),
    Field("baselines.tail", False, TRUTH, "the mean weights of the last cycle, if there is one"),
    Field("eval_every_epochs", 1, whole(1, MANY)),
    Field("logs_per_epoch", 4, whole(1, MANY), "lines of training metrics"),
    Field("deterministic", True, TRUTH, "on GPUs too, where it costs some speed"),
    # Nothing in `runtime` changes a result, and a resumed run may change it; but for the number of
    # devices where batch norm sees each device's share alone, which is refused at the resume.
    Field(
        "runtime.data_dir", "", place("a folder of this machine, or empty for TFDS's own", least=0)
    ),
    Field("runtime.devices", 0, whole(0, 65_536), "0: all local devices"),
    Field(
        "runtime.loop",
        "auto",
        one_of(("auto", "fused", "stepwise")),
        "fused, stepwise: many steps or one in a dispatch",
    ),
    Field(
        "runtime.dispatch_seconds",
        2.0,
        number("[0, 3600]"),
        "longest wait for progress and for Ctrl-C",
    ),
    Field("runtime.checkpoint_every_minutes", 10.0, number(f"[0, {MANY}]")),
    Field("runtime.checkpoint_every_steps", 0, whole(0), "0: by time alone"),
    Field("runtime.keep_checkpoints", 3, whole(1, MANY)),
    Field("runtime.compilation_cache", "auto", place("a folder of this machine, auto or off")),
    Field("runtime.decode_workers", 0, whole(0, 1024), "streamed data; 0: one per processor"),
    Field("runtime.corrupt_images", "error", one_of(("error", "skip"))),
    Field("runtime.tensorboard", True, TRUTH),
    Field("runtime.plots", True, TRUTH),
)
"""Every field, in the order in which a config shows it."""

SECTIONS = tuple(dict.fromkeys(f.name.rpartition(".")[0] for f in FIELDS if "." in f.name))
"""The groups of fields."""

OPTION_FIELDS = tuple(field.name for field in FIELDS if field.rule is OPTIONS)
"""Fields that hold arguments of a factory by name."""
