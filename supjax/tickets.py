"""Do two tickets, or two trees, belong to the same network?"""

from typing import Any

import numpy as np

from supjax.trees import named_leaves, rehang
from supjax.types import PyTree, Ticket


def check_same_tickets(first: Ticket, other: Ticket, name: str) -> None:
    """Raise a one-line `ValueError` naming the path unless two tickets agree in shape and dtype.

    >>> a, b = (Ticket({"w": np.ones(n)}, {"w": None}) for n in (2, 3))
    >>> check_same_tickets(a, b, "ticket 1")
    Traceback (most recent call last):
      ...
    ValueError: ticket 1 differs from the first in params at 'w': (3,) instead of (2,)
    """
    for field in Ticket._fields:
        what = f"{name} differs from the first in {field}"
        ours, theirs = getattr(first, field), getattr(other, field)
        check_same_shapes(ours, theirs, what)
        _check_agree(_dtypes(ours), _dtypes(theirs), what)


def check_same_shapes(first: PyTree, other: PyTree, what: str) -> None:
    """Raise a one-line `ValueError` that opens with `what` unless two trees agree in shape.

    Leaves are matched by path; the nodes of the trees may differ.

    >>> check_same_shapes({"w": np.ones(2)}, {}, "the second tree differs")
    Traceback (most recent call last):
      ...
    ValueError: the second tree differs at 'w': no leaf instead of (2,)
    """
    _check_agree(_shapes(first), _shapes(other), what)


def on_own_nodes(ticket: Ticket) -> Ticket:
    """Return a ticket whose masks hang on the nodes of its params.

    Raises:
      ValueError: if params and masks have different paths (one is named).

    >>> on_own_nodes(Ticket([np.ones(2)], (None,))).masks
    [None]
    """
    masks = rehang(ticket.masks, ticket.params, ("masks", "params"))
    return ticket._replace(masks=masks)


def on_nodes_of(first: Ticket, other: Ticket, name: str) -> Ticket:
    """Return another ticket of the same network on the nodes of the first.

    Args:
      first: a ticket.
      other: one with the same paths, shapes and dtypes.
      name: what the other is called in an error.

    Raises:
      ValueError: if they are no tickets of one network (the path is named).

    >>> on_nodes_of(Ticket([1.0], [None]), Ticket((2.0,), (None,)), "ticket 1").params
    [2.0]
    """
    check_same_tickets(first, other, name)
    return Ticket(*(rehang(theirs, ours) for theirs, ours in zip(other, first, strict=True)))


def _check_agree(ours: dict[str, Any], theirs: dict[str, Any], what: str) -> None:
    for path in sorted(ours.keys() | theirs.keys()):
        expected, found = (values.get(path, "no leaf") for values in (ours, theirs))
        if expected != found:
            raise ValueError(f"{what} at {path!r}: {found} instead of {expected}")


def _shapes(tree: PyTree) -> dict[str, Any]:
    leaves = named_leaves(tree)
    return {path: None if leaf is None else np.shape(leaf) for path, leaf in leaves.items()}


def _dtypes(tree: PyTree) -> dict[str, Any]:
    leaves = named_leaves(tree)
    return {path: getattr(leaf, "dtype", type(leaf).__name__) for path, leaf in leaves.items()}
