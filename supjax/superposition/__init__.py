"""Superposition: averaging rules, one file each, and the functions that apply them.

Importing a rule here enters it into `SUPERPOSITIONS`.
"""

from typing import Any

from supjax.checks import call_registered
from supjax.superposition.caa import caa
from supjax.superposition.cia import cia
from supjax.superposition.cima import cima
from supjax.superposition.engine import SCOPES, SUPERPOSITIONS, averaging_rule
from supjax.superposition.scored import Candidate, Choice, superpose_scored
from supjax.superposition.stock import stock
from supjax.superposition.superpose import superpose, superpose_step
from supjax.types import Superposition


def make_superposition(name: str, **kwargs: Any) -> Superposition:
    """Build an averaging rule by name.

    Args:
      name: a key of `SUPERPOSITIONS`.
      **kwargs: arguments of its factory.

    Returns:
      The rule's `Superposition`.

    Raises:
      ValueError: if the name is unknown (the known ones are listed) or an argument is out of range.
      TypeError: if the rule takes no such argument (its arguments are listed).

    >>> make_superposition("cia", beta=0.5)
    Traceback (most recent call last):
      ...
    TypeError: cia takes no argument 'beta'; it takes: density, scope, axes_fn
    """
    return call_registered(SUPERPOSITIONS, "averaging rule", name, kwargs)


__all__ = [
    "SCOPES",
    "SUPERPOSITIONS",
    "Candidate",
    "Choice",
    "averaging_rule",
    "make_superposition",
    "superpose",
    "superpose_scored",
    "superpose_step",
    *SUPERPOSITIONS,
]
