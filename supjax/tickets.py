"""Do two tickets, or two trees, belong to the same network?"""

from typing import Any

import jax

from supjax.trees import is_none, path_str
from supjax.types import PyTree, Ticket


def check_same_tickets(first: Ticket, other: Ticket, name: str) -> None:
    """Raise a one-line `ValueError` naming the path unless two tickets agree in shape.

    >>> import numpy as np
    >>> a, b = (Ticket({"w": np.ones(n)}, {"w": None}) for n in (2, 3))
    >>> check_same_tickets(a, b, "ticket 1")
    Traceback (most recent call last):
      ...
    ValueError: ticket 1 differs from the first in params at 'w': (3,) instead of (2,)
    """
    for field in Ticket._fields:
        check_same_shapes(
            getattr(first, field),
            getattr(other, field),
            f"{name} differs from the first in {field}",
        )


def check_same_shapes(first: PyTree, other: PyTree, what: str) -> None:
    """Raise a one-line `ValueError` that opens with `what` unless two trees agree in shape.

    >>> import numpy as np
    >>> check_same_shapes({"w": np.ones(2)}, {}, "the second tree differs")
    Traceback (most recent call last):
      ...
    ValueError: the second tree differs at 'w': no leaf instead of (2,)
    """
    ours, theirs = _shapes(first), _shapes(other)
    for path in sorted(ours.keys() | theirs.keys()):
        expected, found = (shapes.get(path, "no leaf") for shapes in (ours, theirs))
        if expected != found:
            raise ValueError(f"{what} at {path!r}: {found} instead of {expected}")


def _shapes(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_none)[0]
    return {path_str(p): None if leaf is None else leaf.shape for p, leaf in leaves}
