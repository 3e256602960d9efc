"""The plane through three networks in weight space."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supjax.tickets import check_same_shapes, on_nodes_of, on_own_nodes
from supjax.trees import rehang
from supjax.types import Params, Scalar, Ticket


class Plane(NamedTuple):
    """Coordinates (x, y) for the networks `origin + x * u + y * v`.

    Attributes:
      origin: the first network, with the union of the three masks.
      u: float32 tree of the params, of Euclidean length 1: the way to the second network.
      v: as u, at a right angle to it, on the third network's side.
      corners: float64 `(3, 2)`, coordinates of the three networks, in units of weight.

    >>> Plane._fields
    ('origin', 'u', 'v', 'corners')
    """

    origin: Ticket
    u: Params
    v: Params
    corners: np.ndarray


def loss_plane(first: Ticket, second: Ticket, third: Ticket) -> Plane:
    """Span the plane through three networks.

    `u = (w2 - w1) / |w2 - w1|`, `v' = (w3 - w1) - <w3 - w1, u> u`, `v = v' / |v'|`.

    Args:
      first: w1, the origin.
      second: w2, which lies on the x axis.
      third: w3, which lies at y > 0.

    Returns:
      The `Plane`.

    Raises:
      ValueError: the networks differ in paths, shapes or dtypes, or lie on one line.

    Source: Garipov et al., *Loss surfaces, mode connectivity, and fast ensembling of DNNs*,
    NeurIPS 2018 (the planes of figure 1).

    >>> a, b, c = (Ticket({"w": jnp.array(w)}, {"w": None}) for w in ([0., 0.], [3., 0.], [1., 2.]))
    >>> loss_plane(a, b, c).corners
    array([[0., 0.],
           [3., 0.],
           [1., 2.]])
    """
    first = on_own_nodes(first)
    second = on_nodes_of(first, second, "the second network")
    third = on_nodes_of(first, third, "the third network")
    to_second = _minus(second.params, first.params)
    to_third = _minus(third.params, first.params)
    length = math.sqrt(_dot(to_second, to_second))
    if not length > 0:
        raise ValueError("the first and the second network are the same: they span no plane")
    u = jax.tree.map(lambda x: x / length, to_second)
    along = _dot(to_third, u)
    across = jax.tree.map(lambda x, y: x - along * y, to_third, u)
    height = math.sqrt(_dot(across, across))
    if not height > 1e-5 * math.sqrt(_dot(to_third, to_third)):
        raise ValueError("the third network lies on the line of the others: they span no plane")
    masks = jax.tree.map(lambda a, b, c: a | b | c, first.masks, second.masks, third.masks)
    return Plane(
        origin=first._replace(masks=masks),
        u=u,
        v=jax.tree.map(lambda x: x / height, across),
        corners=np.array([[0.0, 0.0], [length, 0.0], [along, height]]),
    )


def plane_ticket(plane: Plane, x: Scalar, y: Scalar) -> Ticket:
    """Return the network at a point of a plane, `origin + x * u + y * v`.

    Args:
      plane: what `loss_plane` returns.
      x: coordinate along `u`; may be traced.
      y: coordinate along `v`; may be traced.

    Returns:
      A ticket with the union of the corners' masks. Its batch statistics are those of the first
      corner: estimate them again (`supjax.recompute_batch_stats`).

    >>> a, b, c = (Ticket({"w": jnp.array(w)}, {"w": None}) for w in ([0., 0.], [3., 0.], [1., 2.]))
    >>> plane_ticket(loss_plane(a, b, c), 0.5, 4.0).params["w"]
    Array([0.5, 4. ], dtype=float32)
    """
    params = jax.tree.map(
        lambda w, u, v: (w.astype(u.dtype) + x * u + y * v).astype(w.dtype),
        plane.origin.params,
        plane.u,
        plane.v,
    )
    return plane.origin._replace(params=params)


def plane_coordinates(plane: Plane, params: Params) -> tuple[float, float, float]:
    """Project any network into a plane, `x = <w - origin, u>`, `y = <w - origin, v>`.

    Args:
      plane: what `loss_plane` returns.
      params: weights of the same network, for example a superposed one.

    Returns:
      `(x, y, distance)`: the coordinates, and the Euclidean distance from the plane.

    Raises:
      ValueError: the weights differ in paths or shapes.

    >>> tickets = [Ticket({"w": jnp.array(w)}, {"w": None}) for w in
    ...            ([0., 0., 0.], [3., 0., 0.], [1., 2., 0.])]
    >>> plane_coordinates(loss_plane(*tickets), {"w": jnp.array([1.0, 2.0, 7.0])})
    (1.0, 2.0, 7.0)
    """
    check_same_shapes(plane.origin.params, params, "the params differ from the plane's")
    offset = _minus(rehang(params, plane.origin.params), plane.origin.params)
    x, y = _dot(offset, plane.u), _dot(offset, plane.v)
    rest = jax.tree.map(lambda o, u, v: o - x * u - y * v, offset, plane.u, plane.v)
    return x, y, math.sqrt(_dot(rest, rest))


def _minus(a: Params, b: Params) -> Params:
    """Return `a - b`, in at least float32."""

    def one(x: jax.Array, y: jax.Array) -> jax.Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.asarray(x, wide) - jnp.asarray(y, wide)

    return jax.tree.map(one, a, b)


def _dot(a: Params, b: Params) -> float:
    parts = jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b))
    return math.fsum(float(part) for part in parts)
