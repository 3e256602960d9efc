"""Checks of static arguments: one line that names the value and what is allowed."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from supjax.types import TopologyTransform

KNOWN = 40
"""Names of a list of what is known, which a user may read to the end."""

_LONGEST = 100


def some(names: Iterable[object], most: int = 8, none: str = "nothing") -> str:
    """Return a list for a message, cut after a few names; every list in a message goes through it.

    Args:
      names: whatever is listed; each is cut to 100 characters.
      most: names that are shown.
      none: what stands for none.

    >>> some("abcd", most=2), some([])
    ('a, b and 2 more', 'nothing')
    """
    every = [str(name)[:_LONGEST] for name in names]
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return (", ".join(every[:most]) + rest) or none


def listed(values: Iterable[object], most: int = 8) -> str:
    """Return a list for a message as Python writes it, cut after a few values.

    >>> listed("abcd", most=2)
    "['a', 'b' and 2 more]"
    """
    return f"[{some(map(repr, values), most, '')}]"


def check_density(value: float, name: str = "density") -> float:
    """Return `value` if it is a density, a number in (0, 1]; raise `ValueError` otherwise.

    >>> check_density(1.5)
    Traceback (most recent call last):
      ...
    ValueError: density must be in (0, 1], got 1.5
    """
    if not _is_number(value) or not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {value!r}")
    return value


def check_fraction(value: float, name: str) -> float:
    """Return `value` if it is a number in [0, 1]; raise `ValueError` otherwise.

    >>> check_fraction(0.5, "drop_fraction")
    0.5
    """
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return value


def check_count(value: int, name: str, least: int = 1) -> int:
    """Return `value` if it is an integer of at least `least`; raise `ValueError` otherwise.

    >>> check_count(0, "interval")
    Traceback (most recent call last):
      ...
    ValueError: interval must be an integer of at least 1, got 0
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return value


def check_choice(value: str, name: str, allowed: object) -> str:
    """Return `value` if it is one of the allowed names; raise `ValueError` listing them otherwise.

    >>> check_choice("ert", "distribution", ["erk", "uniform"])
    Traceback (most recent call last):
      ...
    ValueError: distribution must be one of ['erk', 'uniform'], got 'ert'
    """
    names = sorted(allowed)  # type: ignore[call-overload]
    if value not in names:
        raise ValueError(f"{name} must be one of {listed(names, KNOWN)}, got {value!r}")
    return value


def check_key(key: Any) -> jax.Array:
    """Return `key` if it is a typed PRNG key; raise `TypeError` otherwise.

    >>> check_key(0)
    Traceback (most recent call last):
      ...
    TypeError: key must be a typed PRNG key, as jax.random.key(0) makes, got int
    """
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        found = f"{key.dtype} array" if hasattr(key, "dtype") else type(key).__name__
        raise TypeError(f"key must be a typed PRNG key, as jax.random.key(0) makes, got {found}")
    return key


def check_trainer(tx: Any, topology: Any) -> None:
    """Raise a one-line `TypeError` unless `tx` is an optimizer and `topology` a method.

    >>> check_trainer(None, None)
    Traceback (most recent call last):
      ...
    TypeError: tx must be an optax optimizer with init and update, got NoneType
    """
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise TypeError(
            f"tx must be an optax optimizer with init and update, got {type(tx).__name__}"
        )
    if not isinstance(topology, TopologyTransform):
        raise TypeError(
            "topology must be a TopologyTransform, as make_topology makes, "
            f"got {type(topology).__name__}"
        )


def call_registered(
    registry: Mapping[str, Callable[..., Any]], kind: str, name: str, arguments: Mapping[str, Any]
) -> Any:
    """Return what the factory of that name makes of the arguments.

    Raises:
      ValueError: if the name is unknown (the known ones are listed).
      TypeError: if the factory takes no such argument (its arguments are listed), or needs one.

    >>> call_registered({"power": lambda base, to=2: base**to}, "function", "power", {"bas": 3})
    Traceback (most recent call last):
      ...
    TypeError: power takes no argument 'bas'; it takes: base, to
    """
    if name not in registry:
        raise ValueError(f"unknown {kind} {name!r}; known: {some(sorted(registry), KNOWN)}")
    allowed = inspect.signature(registry[name]).parameters
    unknown = sorted(arguments.keys() - allowed.keys())
    if unknown:
        raise TypeError(
            f"{name} takes no argument {unknown[0]!r}; it takes: {some(allowed, KNOWN)}"
        )
    missing = [key for key, p in allowed.items() if p.default is p.empty and key not in arguments]
    if missing:
        raise TypeError(f"{name} needs the argument {missing[0]!r}")
    return registry[name](**arguments)


def _is_number(value: object) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool)
