"""Model Stock beside the same by all pairs in float64, and where it has to meet the mean."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import supjax
from supjax import Ticket, make_superposition, superpose
from tests.helpers import tiny_problem
from tests.helpers.strategies import Layer

SHAPES = {"kernel": (4, 5), "conv": (3, 2, 1, 4), "bias": (5,), "scale": ()}


def ticket_of(params, density=None):
    masks = supjax.dense_masks(params)
    if density is not None:
        masks = supjax.init_masks(jax.random.key(0), params, density)
    return Ticket(supjax.apply_masks(params, masks), masks)


def draw(seed, count, shapes=SHAPES):
    """Tickets that are all dense, around a first one."""
    rng = np.random.RandomState(seed)
    first = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    shared = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    found = [first]
    for _ in range(count):
        found.append({k: first[k] + shared[k] + rng.standard_normal(s) for k, s in shapes.items()})
    return [ticket_of({k: jnp.asarray(v, jnp.float32) for k, v in p.items()}) for p in found]


def by_pairs(members, pick):
    """The rule as it is written, with every pair of differences."""
    first, *others = (np.asarray(pick(t.params), np.float64) for t in members)
    differences = [w - first for w in others]
    cosines = [
        np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in itertools.combinations(differences, 2)
    ]
    count, cosine = len(others), np.clip(np.mean(cosines), 0, 1)
    t = count * cosine / (1 + (count - 1) * cosine)
    return t * np.mean(others, axis=0) + (1 - t) * first


@pytest.mark.parametrize("count", [2, 3, 6])
def test_the_sums_give_what_all_pairs_give(count):
    members = draw(count, count)
    found = superpose(members, average="stock")
    for name in SHAPES:
        expected = by_pairs(members, lambda params, name=name: params[name])
        np.testing.assert_allclose(found.params[name], expected, rtol=1e-4, atol=1e-5)


def one_layer(*rows):
    return [ticket_of({"w": jnp.array([row], jnp.float32)}) for row in rows]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # c = 0.6: t = 1.2 / 1.6; between (2, 4) and (4, 1)
        ([(4, 1), (4, 6), (0, 4)], (2.5, 4.0)),
        # one difference has no angle: the mean of both
        ([(4, 1), (2, 3)], (3.0, 2.0)),
        # at right angles, and against each other: the first
        ([(4, 1), (5, 1), (4, 2)], (4.0, 1.0)),
        ([(4, 1), (6, 1), (1, 1)], (4.0, 1.0)),
        # one direction, other lengths: the mean without the first
        ([(4, 1), (5, 2), (7, 4)], (6.0, 3.0)),
        # one that did not move has no direction: c = 1/3, t = 3/5
        ([(4, 1), (4, 1), (4, 2), (4, 4)], (4.0, 1.8)),
    ],
)
def test_a_layer_by_hand(rows, expected):
    found = superpose(one_layer(*rows), average="stock").params["w"]
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_identical_differences_give_the_mean_and_copies_of_the_first_the_first(count):
    first, moved = draw(7, 1)
    found = superpose([first, *[moved] * count], average="stock")
    for name in SHAPES:
        np.testing.assert_allclose(found.params[name], moved.params[name], rtol=1e-5, atol=1e-6)
    same = superpose([first] * (count + 1), average="stock")
    jax.tree.map(np.testing.assert_array_equal, same, first)


def test_the_order_after_the_first_does_not_matter():
    first, *others = draw(3, 4)
    one, other = (superpose([first, *some], average="stock") for some in (others, others[::-1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)


def test_every_slice_of_a_stack_is_a_layer_of_its_own():
    first = np.random.RandomState(0).standard_normal((2, 3, 4)).astype(np.float32)
    steps = np.ones((2, 2, 3, 4), np.float32)
    steps[1, 1] = -1  # the first slice moves one way twice, the second there and back
    kernels = [first, *(first + step for step in steps)]
    members = [ticket_of({"kernel": jnp.asarray(k), "bias": jnp.zeros((2, 4))}) for k in kernels]
    found = superpose(members, average="stock").params["kernel"]
    np.testing.assert_allclose(found[0], first[0] + 1, rtol=1e-5)
    np.testing.assert_allclose(found[1], first[1], rtol=1e-5)


def test_masks_do_not_hide_a_difference_and_the_density_is_exact():
    params = Layer({"a": jnp.ones((6, 8))}, [jnp.ones((5, 4)), jnp.ones(4)])
    keys = jax.random.split(jax.random.key(1), 4)
    masks = [supjax.init_masks(key, params, 0.3) for key in keys]
    members = [Ticket(supjax.apply_masks(params, mask), mask) for mask in masks]
    found = superpose(members, average="stock")
    assert supjax.count_active(found.masks) == supjax.count_active(masks[0])
    dense = superpose(members, average=make_superposition("stock", density=1.0))
    expected = by_pairs(members, lambda params: params.first["a"])
    np.testing.assert_allclose(dense.params.first["a"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("include_pretrained", [True, False])
def test_inside_an_optax_loop_the_first_member_is_where_it_starts(include_pretrained):
    plan = supjax.CyclePlan(normal_steps=4, cycle_steps=2, num_cycles=3)
    tx = supjax.sup_tickets(
        optax.sgd(0.1),
        tiny_problem.topology(),
        plan,
        jax.random.key(1),
        superposition="stock",
        include_pretrained=include_pretrained,
    )
    taken = {plan.normal_steps} if include_pretrained else set()
    taken |= {step + 1 for step in plan.ticket_steps}
    tickets = []
    for i, (weights, state, _) in enumerate(tiny_problem.train(tx, plan.total_steps)):
        if i in taken:
            tickets.append(supjax.take_ticket(weights, state))
    found, expected = supjax.superposed(state, weights), superpose(tickets, average="stock")
    jax.tree.map(np.testing.assert_array_equal, found.masks, expected.masks)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found.params,
        expected.params,
    )
