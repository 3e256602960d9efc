"""Trees of mixed nodes: whatever they are built of, training sees leaves and their paths alone.

Every property compares a random tree with the flat dict of the same leaves under the same paths.
Leaves have the same shapes in all examples, so that few programs are compiled.
"""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import supjax
from supjax.trees import is_none, named_leaves
from tests.helpers.strategies import NODES, mixed, rewrapped

KEY = jax.random.key(0)
WEIGHTS = [
    *(jax.random.normal(key, (4, 5)) for key in jax.random.split(KEY)),
    jnp.ones(5),
    jnp.float32(0.5),
    None,
]
PLAN = supjax.CyclePlan(normal_steps=3, cycle_steps=2, num_cycles=1)
UPDATES = PLAN.total_steps
ACTIVE = 16

TOPOLOGY = supjax.make_topology("rigl", density=0.4, update_every=2, drop_fraction=0.5)
SPARSIFY = supjax.sparsify(optax.sgd(0.1, momentum=0.9), TOPOLOGY, KEY)
SUP_TICKETS = supjax.sup_tickets(optax.sgd(0.1, momentum=0.9), TOPOLOGY, PLAN, KEY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mixed")


def flat(tree):
    """The leaves of a tree by path, in its order."""
    return OrderedDict(named_leaves(tree))


def gradients(params, step):
    """Gradients that differ from step to step."""
    return jax.tree.map(lambda w: w + 0.1 * step * jnp.ones_like(w), params)


def train(tx, params, grads_like):
    """Five updates; return the weights, the state and the ticket after each."""
    state = tx.init(params)
    params, tickets = supjax.sparse_params(params, state), []
    for step in range(UPDATES):
        grads = named_leaves(gradients(params, step))
        names = iter(named_leaves(grads_like))
        grads = jax.tree.map(
            lambda _, names=names, grads=grads: grads[next(names)],
            grads_like,
            is_leaf=is_none,
        )
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        tickets.append(supjax.take_ticket(params, state))
    supjax.check_sparse(params, state)
    return params, state, tickets


def assert_same(tree, expected, like):
    """Assert the nodes of one tree and the leaves of another, by path and to the bit."""
    assert jax.tree.structure(tree) == jax.tree.structure(like)
    ours, theirs = named_leaves(tree), named_leaves(expected)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)


@st.composite
def trees(draw):
    """A tree of mixed nodes, and one of other nodes with the same paths."""
    tree = draw(mixed(WEIGHTS))
    return tree, draw(rewrapped(tree))


def assert_same_tickets(ours, expected, tree):
    """Assert the same of weights and masks; both hang on the nodes of the tree."""
    assert_same(ours.params, expected.params, tree)
    on_nodes = jax.tree.map(lambda _: 0, ours.masks, is_leaf=is_none)
    assert jax.tree.structure(on_nodes) == jax.tree.structure(tree, is_leaf=is_none)
    assert_same(ours.masks, expected.masks, ours.masks)


@settings(max_examples=6)
@given(pair=trees())
def test_sparsify_follows_paths_and_keeps_the_nodes(folder, pair):
    tree, like = pair
    params, _, tickets = train(SPARSIFY, tree, like)
    same, _, expected = train(SPARSIFY, flat(tree), flat(tree))
    assert_same(params, same, tree)
    for ours, theirs in zip(tickets, expected, strict=True):
        assert_same_tickets(ours, theirs, tree)
        assert supjax.count_active(ours.masks) == ACTIVE
    assert supjax.iou(tickets[0].masks, tickets[-1].masks) < 1
    result = supjax.superpose(tickets[-2:])
    assert_same_tickets(result, supjax.superpose(expected[-2:]), tree)
    path = folder / "ticket.npz"
    supjax.save_ticket(path, tickets[-1])
    for shown in (tree, like):
        found = supjax.load_ticket(path, like=shown)
        assert_same_tickets(found, tickets[-1], shown)


@settings(max_examples=4)
@given(pair=trees())
def test_sup_tickets_follow_paths_and_keep_the_nodes(folder, pair):
    tree, like = pair
    params, state, tickets = train(SUP_TICKETS, tree, like)
    same, flat_state, expected = train(SUP_TICKETS, flat(tree), flat(tree))
    assert_same(params, same, tree)
    assert_same_tickets(tickets[-1], expected[-1], tree)
    result = supjax.superposed(state, params)
    assert_same_tickets(result, supjax.superposed(flat_state, same), tree)
    assert supjax.count_active(result.masks) == ACTIVE
    supjax.save_ticket(folder / "superposed.npz", result)
    found = supjax.load_ticket(folder / "superposed.npz", like=like)
    assert_same_tickets(found, result, like)


@pytest.mark.parametrize("name", NODES)
def test_every_kind_of_node_alone_trains_and_comes_back_from_a_file(folder, name):
    tree = NODES[name](WEIGHTS[0], NODES[name](WEIGHTS[1], WEIGHTS[2]))
    params, state, tickets = train(SPARSIFY, tree, tree)
    supjax.save_ticket(folder / "one.npz", tickets[-1])
    found = supjax.load_ticket(folder / "one.npz", like=params)
    assert_same_tickets(found, tickets[-1], tree)
    # and training goes on from it
    again = supjax.sparsify(optax.sgd(0.1), TOPOLOGY, KEY, masks=found).init(params)
    assert_same(again.topology.masks, found.masks, state.topology.masks)
