"""Lines and planes through tickets: end points, unions of masks, hand-worked coordinates."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supjax.analysis import interpolate, loss_plane, plane_coordinates, plane_ticket, walk
from supjax.types import Ticket


def ticket(weights, keep=None, mean=0.0, dtype=jnp.float32):
    weights = jnp.asarray(weights, dtype)
    mask = weights != 0 if keep is None else jnp.asarray(keep)
    return Ticket(
        {"net": [weights, jnp.ones(2)]},
        {"net": [mask, None]},
        {"mean": jnp.float32(mean), "steps": jnp.int32(7)},
    )


A = ticket([0.1, 0.0, 3.0, -2.0], mean=1.0)
B = ticket([0.3, 7.0, 0.0, -2.0], mean=2.0)


def weights(found):
    return np.asarray(found.params["net"][0])


def test_end_points_are_exact():
    for t, end in ((0, A), (0.0, A), (1, B), (1.0, B)):
        found = interpolate(A, B, t)
        jax.tree.map(np.testing.assert_array_equal, found.params, end.params)
        assert found.batch_stats == end.batch_stats
    np.testing.assert_array_equal(interpolate(A, B, 0.3).masks["net"][0], [True] * 4)
    assert interpolate(A, B, 0.3).masks["net"][1] is None


def test_points_between_and_beyond():
    found = interpolate(A, B, 0.25)
    np.testing.assert_allclose(weights(found), [0.15, 1.75, 2.25, -2.0], rtol=1e-6)
    np.testing.assert_allclose(found.batch_stats["mean"], 1.25)
    np.testing.assert_allclose(weights(interpolate(A, B, 2)), [0.5, 14, -3, -2], rtol=1e-6)
    np.testing.assert_allclose(weights(jax.jit(interpolate)(A, B, 0.25)), weights(found), rtol=1e-6)


def test_low_precision_is_kept():
    a, b = (ticket(w, dtype=jnp.bfloat16) for w in ([1.0, 2.0], [2.0, 2.0]))
    found = interpolate(a, b, 0.5)
    assert found.params["net"][0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(weights(found).astype(np.float32), [1.5, 2.0])


def test_a_walk_passes_its_waypoints():
    c = ticket([1.0, 1.0, 1.0, 1.0])
    path = list(walk((A, c, B), 4))
    assert [t for t, _ in path] == [i / 4 for i in range(9)]
    assert path[0][1] == A
    assert path[4][1] == c
    assert path[8][1] == B
    np.testing.assert_array_equal(weights(path[6][1]), weights(interpolate(c, B, 0.5)))
    assert [t for t, _ in walk([A, B], 1)] == [0, 1]


def test_plane_by_hand():
    origin = ticket([1.0, 1.0, 0.0])
    plane = loss_plane(origin, ticket([1.0, 5.0, 0.0]), ticket([0.0, 0.0, 3.0]))
    root = np.sqrt(10)  # third - first = (-1, -1, 3), of which (-1, 0, 3) is across
    np.testing.assert_allclose(plane.u["net"][0], [0, 1, 0])
    np.testing.assert_allclose(plane.v["net"][0], np.array([-1, 0, 3]) / root, rtol=1e-6)
    np.testing.assert_allclose(plane.corners, [[0, 0], [4, 0], [-1, root]], rtol=1e-6)
    np.testing.assert_array_equal(plane.origin.masks["net"][0], [True, True, True])
    np.testing.assert_allclose(
        plane_coordinates(plane, {"net": [jnp.array([4.0, 3.0, 1.0]), jnp.ones(2)]}),
        [2, 0, root],
        atol=1e-6,
    )


def test_corners_of_a_random_plane_come_back():
    rng = np.random.default_rng(0)
    corners = [
        Ticket(
            {"w": jnp.asarray(rng.normal(size=(20, 30)), jnp.float32), "b": jnp.ones(())},
            {"w": jnp.asarray(rng.random((20, 30)) < 0.5), "b": None},
            {"mean": jnp.float32(i)},
        )
        for i in range(3)
    ]
    plane = loss_plane(*corners)
    dot = sum(jnp.vdot(plane.u[name], plane.v[name]) for name in "wb")
    np.testing.assert_allclose(dot, 0, atol=1e-6)
    for tree in (plane.u, plane.v):
        np.testing.assert_allclose(sum(jnp.sum(leaf**2) for leaf in tree.values()), 1, rtol=1e-5)
    for corner, (x, y) in zip(corners, plane.corners, strict=True):
        found = jax.jit(plane_ticket)(plane, x, y)
        np.testing.assert_allclose(found.params["w"], corner.params["w"], atol=1e-5)
        np.testing.assert_allclose(found.params["b"], 1, rtol=1e-5)
        np.testing.assert_allclose(plane_coordinates(plane, corner.params), [x, y, 0], atol=1e-4)
    union = corners[0].masks["w"] | corners[1].masks["w"] | corners[2].masks["w"]
    np.testing.assert_array_equal(found.masks["w"], union)
    assert found.batch_stats == corners[0].batch_stats


OTHER = Ticket({"net": [jnp.ones(3), jnp.ones(2)]}, A.masks, A.batch_stats)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: interpolate(A, OTHER, 0.5),
            "the second network differs from the first in params at 'net/0': (3,) instead of (4,)",
        ),
        (
            lambda: interpolate(A, B._replace(batch_stats={}), 0.5),
            "the second network differs from the first in batch_stats at 'mean': no leaf",
        ),
        (
            lambda: interpolate(A, A._replace(masks={"net": [None, None]}), 0.5),
            "the second network differs from the first in masks at 'net/0': None instead of (4,)",
        ),
        (lambda: walk([A], 2), "a path needs at least 2 waypoints, got 1"),
        (lambda: walk([A, B], 0), "steps must be an integer of at least 1, got 0"),
        (lambda: walk([A, B, OTHER], 1), "waypoint 2 differs from the first in params at 'net/0'"),
        (
            lambda: loss_plane(A, A, B),
            "the first and the second network are the same: they span no plane",
        ),
        (
            lambda: loss_plane(A, B, interpolate(A, B, 0.3)),
            "the third network lies on the line of the others: they span no plane",
        ),
        (
            lambda: loss_plane(A, B, A),
            "the third network lies on the line of the others: they span no plane",
        ),
        (
            lambda: loss_plane(A, B, OTHER),
            "the third network differs from the first in params at 'net/0'",
        ),
        (
            lambda: plane_coordinates(loss_plane(A, B, ticket([1.0] * 4)), {}),
            "the params differ from the plane's at 'net/0': no leaf instead of (4,)",
        ),
    ],
)
def test_bad_input_ends_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        call()
    assert "\n" not in str(caught.value)
