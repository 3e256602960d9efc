"""Sparse-training methods, one file each; importing one here enters it into `METHODS`."""

from typing import Any

from supjax.checks import call_registered
from supjax.exploring import exploring
from supjax.topologies.at_init import grasp, snip, synflow
from supjax.topologies.dsr import dsr
from supjax.topologies.engine import METHODS, method
from supjax.topologies.gmp import gmp
from supjax.topologies.granet import granet
from supjax.topologies.mest import mest
from supjax.topologies.rigl import rigl, rigl_itop
from supjax.topologies.set import set, set_itop
from supjax.topologies.snfs import snfs
from supjax.topologies.static import dense, static
from supjax.types import TopologyTransform


def make_topology(name: str, **kwargs: Any) -> TopologyTransform:
    """Build a method by name.

    Args:
      name: a key of `METHODS`.
      **kwargs: arguments of its factory.

    Returns:
      The method's `TopologyTransform`.

    Raises:
      ValueError: if the name is unknown (the known ones are listed) or an argument is out of range.
      TypeError: if the method takes no such argument (its arguments are listed).

    >>> make_topology("rgl", density=0.1)
    Traceback (most recent call last):
      ...
    ValueError: unknown method 'rgl'; known: dense, dsr, gmp, granet, ...
    """
    return call_registered(METHODS, "method", name, kwargs)


__all__ = ["METHODS", "exploring", "make_topology", "method", *METHODS]
