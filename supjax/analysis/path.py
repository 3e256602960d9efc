"""Straight lines between tickets in weight space."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from supjax.checks import check_count
from supjax.superposition.averaging import running_mean
from supjax.tickets import on_nodes_of, on_own_nodes
from supjax.types import Scalar, Ticket


def interpolate(first: Ticket, second: Ticket, t: Scalar) -> Ticket:
    """Return the network at position t of the line between two, `(1 - t) * first + t * second`.

    Args:
      first: the network at t = 0, which comes back exactly.
      second: the network at t = 1, of the same shapes, which comes back exactly.
      t: position; may be traced, and may lie outside [0, 1].

    Returns:
      A ticket whose masks are the union of both. Its batch statistics are interpolated as well;
      estimate them again (`supjax.recompute_batch_stats`) before trusting its accuracy.

    Raises:
      ValueError: the networks differ in paths, shapes, dtypes or in which leaves are sparse.

    Source: Frankle et al., *Linear mode connectivity and the lottery ticket hypothesis*,
    ICML 2020, section 2.

    >>> a = Ticket({"w": jnp.array([2.0, 0.0])}, {"w": jnp.array([True, False])})
    >>> b = Ticket({"w": jnp.array([0.0, 4.0])}, {"w": jnp.array([False, True])})
    >>> interpolate(a, b, 0.25).params
    {'w': Array([1.5, 1. ], dtype=float32)}
    """
    first = on_own_nodes(first)
    second = on_nodes_of(first, second, "the second network")
    return Ticket(
        params=running_mean(first.params, second.params, t),
        masks=jax.tree.map(jnp.logical_or, first.masks, second.masks),
        batch_stats=running_mean(first.batch_stats, second.batch_stats, t),
    )


def walk(waypoints: Sequence[Ticket], steps: int) -> Iterator[tuple[float, Ticket]]:
    """Yield the networks along a path of straight lines, one at a time.

    Args:
      waypoints: at least two networks, for example `(ticket, superposed, other_ticket)`.
      steps: number of equal steps between one waypoint and the next.

    Yields:
      `(position, network)`; waypoint i lies at position i exactly.

    Raises:
      ValueError: fewer than two waypoints, `steps` below 1, or networks that differ in shape.

    >>> a, b, c = (Ticket({"w": jnp.array([x])}, {"w": None}) for x in (0.0, 4.0, 2.0))
    >>> [(t, float(ticket.params["w"][0])) for t, ticket in walk((a, b, c), 2)]
    [(0.0, 0.0), (0.5, 2.0), (1.0, 4.0), (1.5, 3.0), (2.0, 2.0)]
    """
    check_count(steps, "steps")
    if len(waypoints) < 2:
        raise ValueError(f"a path needs at least 2 waypoints, got {len(waypoints)}")
    first = on_own_nodes(waypoints[0])
    hung = [on_nodes_of(first, other, f"waypoint {i}") for i, other in enumerate(waypoints)]
    return _walk(hung, steps)


def _walk(waypoints: Sequence[Ticket], steps: int) -> Iterator[tuple[float, Ticket]]:
    yield 0.0, waypoints[0]
    for i in range(1, len(waypoints)):
        for step in range(1, steps):
            t = step / steps
            yield i - 1 + t, interpolate(waypoints[i - 1], waypoints[i], t)
        yield float(i), waypoints[i]
