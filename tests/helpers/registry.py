"""Every method of the registry, built with the arguments that it requires; registries to spoil."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from supjax.topologies import METHODS, make_topology
from supjax.types import TopologyTransform

DENSITY = 0.28

ARGUMENTS = {"density": DENSITY, "ramp_end": 20, "stop": 100}
"""Values of required arguments; a new method needs a row for a new name only."""

RAMPS = {name for name in METHODS if "ramp_end" in inspect.signature(METHODS[name]).parameters}
"""Methods whose count falls along a ramp."""


def build(name: str, **overrides: Any) -> TopologyTransform:
    """Return a method with its required arguments, some of them overridden."""
    parameters = inspect.signature(METHODS[name]).parameters.values()
    required = {p.name: ARGUMENTS[p.name] for p in parameters if p.default is p.empty}
    return make_topology(name, **{**required, **overrides})


def start_density(name: str) -> float:
    """Return the density at which a method starts."""
    if name == "dense":
        return 1.0
    parameters = inspect.signature(METHODS[name]).parameters
    return parameters["initial_density"].default if name in RAMPS else DENSITY


@contextlib.contextmanager
def restored(*registries: dict[str, Any]) -> Iterator[None]:
    """Let a block enter what it likes into registries, and forget it afterwards."""
    before = [dict(registry) for registry in registries]
    try:
        yield
    finally:
        for registry, content in zip(registries, before, strict=True):
            registry.clear()
            registry.update(content)
