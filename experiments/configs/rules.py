"""Checks of a whole config before any data is loaded or anything is compiled.

Every field is checked by the table of `fields`, then the options by the signature of the factory
that gets them, then the fields against each other by `RELATIONS`.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

import jax
from ml_collections import ConfigDict

from experiments.configs.fields import FIELDS, SECTIONS, Field, is_number, is_whole, shown
from experiments.errors import ConfigError
from supjax.allocation import budget
from supjax.checks import KNOWN, some
from supjax.schedules import CyclePlan
from supjax.superposition import SUPERPOSITIONS
from supjax.superposition.scored import LEAST_IMAGES
from supjax.topologies import METHODS

FACTORIES: dict[str, Callable[[ConfigDict], Callable[..., Any]]] = {
    "topology.options": lambda config: METHODS[config.method],
    "sup_tickets.options": lambda config: SUPERPOSITIONS[config.sup_tickets.average],
}
"""Whose arguments the options are."""

FROM_ELSEWHERE = frozenset({"density", "filter_fn", "axes_fn"})
"""Arguments that are no options: the sparsity decides, and the network."""

_OF_KIND: dict[Any, Callable[[Any], bool]] = {
    bool: lambda value: isinstance(value, bool),
    float: is_number,
    int: is_whole,
    str: lambda value: isinstance(value, str),
    NoneType: lambda value: value is None,
}


def check_options(field: str, options: Mapping[str, Any], factory: Callable[..., Any]) -> None:
    """Check options against the signature of the factory that gets them.

    Args:
      field: dotted path of the options in the config.
      options: name -> value.
      factory: its arguments but for `FROM_ELSEWHERE` are the known options.

    Raises:
      ConfigError: one line, for an unknown name (the known ones are listed) or a value that is not
        of the type that the factory states.

    >>> check_options("topology.options", {"rounds": 10}, METHODS["synflow"])
    >>> check_options("topology.options", {"rounds": 0.5}, METHODS["synflow"])
    Traceback (most recent call last):
      ...
    experiments.errors.ConfigError: topology.options.rounds must be int, got 0.5
    """
    known = {
        name: _kinds(parameter.annotation)
        for name, parameter in inspect.signature(factory).parameters.items()
        if name not in FROM_ELSEWHERE and parameter.kind is not parameter.VAR_KEYWORD
    }
    for name, value in options.items():
        if name not in known:
            word = shown(name)[1:-1]
            raise ConfigError(f"unknown option {field}.{word}; known: {some(known, KNOWN, 'none')}")
        if not any(_is_of_kind(value, kind) for kind in known[name]):
            kinds = " or ".join(kind.__name__ for kind in known[name] if kind in _OF_KIND)
            kinds = kinds.replace("NoneType", "None")
            raise ConfigError(f"{field}.{name} must be {kinds}, got {shown(value)}")


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_of_kind(value: Any, kind: Any) -> bool:
    """Say whether a plain value is of a kind; of kinds that are not simple it may be any."""
    if kind in _OF_KIND:
        return _OF_KIND[kind](value)
    return get_origin(kind) is not Callable


class Relation(NamedTuple):
    """What a field must do beside the others: words that follow "must", and when it does not.

    The words may hold `{path}` for the value of another field. `value` is what the field comes to,
    if that is not what it says.
    """

    field: str
    words: str
    broken: Callable[[ConfigDict], bool]
    value: Callable[[ConfigDict], Any] | None = None


def _parameters(config: ConfigDict) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(METHODS[config.method]).parameters


def _ramp_outside(config: ConfigDict) -> bool:
    first, last = config.topology.ramp_epochs
    given = config.topology.options
    if "ramp_end" not in _parameters(config) or "ramp_end" in given or "ramp_start" in given:
        return False
    return not first < last <= config.epochs


def _initial_sparsity(config: ConfigDict) -> Any:
    """Return the sparsity of the first masks of a method with a ramp; 0 for others."""
    parameter = _parameters(config).get("initial_density")
    if parameter is None:
        return 0.0
    given = config.topology.options.get("initial_density")
    own = config.topology.initial_sparsity
    if given is None and own is not None:
        return own
    density = parameter.default if given is None else given
    return round(1 - density, 12) if is_number(density) else 0.0


def _plan(config: ConfigDict) -> CyclePlan:
    """Return the two phases of a run with Sup-tickets, in epochs."""
    fields = config.sup_tickets
    return CyclePlan.from_epochs(
        config.epochs,
        cycle_fraction=fields.cycle_fraction,
        cycle_epochs=fields.cycle_epochs or None,
        steps_per_epoch=1,
    )


def _only_cycles(config: ConfigDict) -> bool:
    fields = config.sup_tickets
    return not _plan(config).normal_steps or not (fields.cycle_epochs or fields.cycle_fraction < 1)


def _cannot_rise(config: ConfigDict) -> bool:
    fields = config.sup_tickets
    return fields.enabled and fields.schedule == "adaptive" and not fields.high


def _too_few_to_choose(config: ConfigDict) -> bool:
    fields = config.sup_tickets
    least = 1 if fields.force_select else LEAST_IMAGES
    return fields.enabled and fields.select != "none" and config.validation_size < least


RELATIONS = (
    Relation(
        "sparsity",
        "leave a weight of the largest network, of 2**31",
        lambda c: not budget(round(1 - c.sparsity, 12), 2**31),
    ),
    Relation(
        "optimizer.warmup_epochs",
        "not exceed the run's {epochs} epochs",
        lambda c: c.optimizer.warmup_epochs > c.epochs,
    ),
    Relation(
        "sup_tickets.low",
        "not exceed sup_tickets.high {sup_tickets.high}",
        lambda c: c.sup_tickets.enabled and c.sup_tickets.low > c.sup_tickets.high,
    ),
    Relation(
        "sup_tickets.high",
        "be above 0 for sup_tickets.schedule {sup_tickets.schedule}, which multiplies it",
        _cannot_rise,
    ),
    Relation(
        "sup_tickets.cycle_epochs",
        "not exceed the run's {epochs} epochs",
        lambda c: c.sup_tickets.enabled and c.sup_tickets.cycle_epochs > c.epochs,
    ),
    Relation(
        "sup_tickets.cycle_fraction",
        "leave room for a cycle, of sup_tickets.cycle_epochs {sup_tickets.cycle_epochs}, in epochs "
        "{epochs}: give a larger share, more epochs, shorter cycles (0: as they fit), or sup=false",
        lambda c: c.sup_tickets.enabled and not _plan(c).num_cycles,
    ),
    Relation(
        "sup_tickets.cycle_fraction",
        "leave epochs for the normal phase",
        lambda c: c.sup_tickets.enabled and _only_cycles(c),
    ),
    Relation(
        "validation_size",
        f"be at least {LEAST_IMAGES} for sup_tickets.select {{sup_tickets.select}}: a choice on "
        "fewer fits them (or sup_tickets.force_select=True)",
        _too_few_to_choose,
    ),
    Relation(
        "sup_tickets.start_from",
        "be empty with sup_tickets.enabled False: it is the cyclic phase that starts there",
        lambda c: bool(c.sup_tickets.start_from) and not c.sup_tickets.enabled,
    ),
    Relation(
        "sup_tickets.start_from",
        "be empty with method {method}, which has no density to keep to",
        lambda c: bool(c.sup_tickets.start_from) and "density" not in _parameters(c),
    ),
    Relation("topology.ramp_epochs", "ascend within the run's {epochs} epochs", _ramp_outside),
    Relation(
        "topology.initial_sparsity",
        "not exceed sparsity {sparsity}",
        lambda c: _initial_sparsity(c) > c.sparsity,
        _initial_sparsity,
    ),
)
"""What is checked once every field is in order by itself."""


def check_config_values(config: ConfigDict) -> None:
    """Raise a one-line `ConfigError` naming the field, its value and what is allowed.

    Needs no data. Data set names beyond the known ones pass: TFDS may hold them.
    """
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"the config must be a ConfigDict, got {shown(config)}")
    values = dict(_leaves(config))
    names = [field.name for field in FIELDS]
    for path, value in values.items():
        if path in SECTIONS:
            raise ConfigError(f"{path} must hold {_known(path)}; got {shown(value)}")
        if path not in names:
            known = _known(path.rpartition(".")[0])
            raise ConfigError(f"unknown field {shown(path)[1:-1]}; known: {known}")
    for field in FIELDS:
        if field.name not in values:
            raise ConfigError(f"the config has no field {field.name}, such as {field.default!r}")
        _check_field(field, values[field.name])
    for name, factory in FACTORIES.items():
        check_options(name, values[name], factory(config))
    for relation in RELATIONS:
        if relation.broken(config):
            words = re.sub(r"\{(.+?)\}", lambda match: shown(values[match[1]]), relation.words)
            value = relation.value(config) if relation.value else values[relation.field]
            raise ConfigError(f"{relation.field} must {words}, got {shown(value)}")


def _check_field(field: Field, value: Any) -> None:
    if not field.rule.holds(value):
        got = shown(value)
        if not isinstance(value, type(field.default) | float) or isinstance(value, bool):
            got += f" ({type(value).__name__})"
        mark = ";" if field.rule.allowed.startswith("one of ") else ","
        raise ConfigError(f"{field.name} must be {field.rule.allowed}{mark} got {got}")


def _leaves(node: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and value of every field; a group that is none, and an unknown field, as well."""
    for name, value in node.items():
        path = f"{prefix}{name}"
        if path in SECTIONS and isinstance(value, ConfigDict):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _known(section: str) -> str:
    """Return the names of a group, or of the whole config for what is no group."""
    prefix = f"{section}." if section in SECTIONS else ""
    names = (f.name.removeprefix(prefix) for f in FIELDS if f.name.startswith(prefix))
    return some(dict.fromkeys(name.partition(".")[0] for name in names), KNOWN)


def describe_fields() -> str:
    """Return the table as text: field, default, what is allowed, comment; then the relations.

    >>> print(describe_fields())
    field            default  allowed                      comment
    seed             0        an integer in [0, 4294967295]
    ...
    """
    rows = [("field", "default", "allowed", "comment")]
    rows += [(f.name, repr(f.default), f.rule.allowed, f.comment) for f in FIELDS]
    widths = [max(len(row[i]) for row in rows if len(row[i]) < 60) for i in range(3)]
    lines = ["  ".join(map(str.ljust, row, (*widths, 0))).rstrip() for row in rows]
    relations = [f"{r.field} must {re.sub(' {.+?}', '', r.words)}" for r in RELATIONS]
    return "\n".join([*lines, "", *relations])


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
