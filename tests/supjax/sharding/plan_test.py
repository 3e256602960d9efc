"""Sup-tickets in a user's own sharded loop: the network of one device, and where everything lies.

The gradient of a sharded batch is a sum in another order, so weights agree to rounding (1e-5
relative, 1e-6 absolute); masks agree exactly.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import supjax
from supjax.trees import named_leaves
from tests.helpers import sharded
from tests.helpers.collectives import traffic

PLAN = supjax.CyclePlan(normal_steps=4, cycle_steps=2, num_cycles=2)
KEY = jax.random.key(1)
EXAMPLES = np.random.default_rng(3).normal(size=(32, 16)).astype(np.float32)
KERNELS = ("up/kernel", "down/kernel")
every_layout = pytest.mark.parametrize("name", sharded.LAYOUTS)


def transformation():
    topology = supjax.make_topology("rigl", density=0.3, update_every=2)
    return supjax.sup_tickets(optax.sgd(0.2, momentum=0.9), topology, PLAN, KEY)


def train_step(tx):
    """Return a user's step, which knows nothing of devices."""

    def loss_fn(params, x):
        hidden = jnp.tanh(x @ params["up"]["kernel"] + params["up"]["bias"][None])
        return jnp.mean((hidden @ params["down"]["kernel"] + params["down"]["bias"][None] - x) ** 2)

    def step(params, opt_state, x):
        grads = jax.grad(loss_fn)(params, x)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return step


def in_types(layout):
    """Arrays of such types are made and differentiated inside their mesh."""
    typed = layout is not None and AxisType.Explicit in layout.mesh.axis_types
    return jax.set_mesh(layout.mesh) if typed else contextlib.nullcontext()


def start(layout, tx):
    """Return masked weights, the optimizer's state and a batch."""
    params = sharded.floats(sharded.weights())
    x = jnp.asarray(EXAMPLES)
    if layout is not None:
        params, x = layout.place(params), layout.batch(x)
    opt_state = tx.init(params)
    return supjax.sparse_params(params, opt_state), opt_state, x


def program(layout, tx, *args):
    """Return the compiled step, whose results lie where its arguments do.

    Without `out_shardings` XLA moves a bias of the fully sharded layout, for any optimizer.
    """
    out = None if layout is None else jax.tree.map(layout.home, args[:2])
    return jax.jit(train_step(tx), out_shardings=out).lower(*args).compile()


@functools.cache
def trained(name):
    """Return the layout, the first and last weights and states, and the program of a step."""
    layout, tx = None if name is None else sharded.LAYOUTS[name](), transformation()
    with in_types(layout):
        params, opt_state, x = start(layout, tx)
        first = (params, opt_state)
        compiled = program(layout, tx, params, opt_state, x)
        for _ in range(PLAN.total_steps):
            params, opt_state = compiled(params, opt_state, x)
    return layout, first, (params, opt_state), compiled.as_text()


def both_tickets(run):
    layout, _, (params, opt_state), _ = run
    with in_types(layout):
        return supjax.take_ticket(params, opt_state), supjax.superposed(opt_state, params)


@every_layout
def test_tickets_and_their_superposition_are_those_of_one_device(name):
    pairs = zip(both_tickets(trained(name)), both_tickets(trained(None)), strict=True)
    for ours, theirs in pairs:
        for path, mask in named_leaves(theirs.masks).items():
            np.testing.assert_array_equal(named_leaves(ours.masks)[path], mask)
        for path, leaf in named_leaves(theirs.params).items():
            own = named_leaves(ours.params)[path]
            np.testing.assert_allclose(own, leaf, rtol=1e-5, atol=1e-6)


@every_layout
def test_masks_and_superposition_lie_beside_their_weights_from_init_to_the_end(name):
    _, first, last, _ = trained(name)
    for params, opt_state in (first, last):
        homes = {path: leaf.sharding for path, leaf in named_leaves(params).items()}
        found = dict.fromkeys(homes, 0)
        entries = (
            opt_state.ever_active,
            opt_state.superposition,
            opt_state.topology,
            opt_state.inner,
        )
        for path, leaf in named_leaves(entries).items():
            for home in homes:
                if leaf is not None and path.endswith(home):
                    assert leaf.sharding.is_equivalent_to(homes[home], leaf.ndim), path
                    found[home] += 1
        kernels = {found.pop(path) for path in KERNELS}
        assert (kernels, set(found.values())) == ({6}, {2})


@every_layout
def test_tickets_lie_where_the_weights_do(name):
    run = trained(name)
    homes = {path: leaf.sharding for path, leaf in named_leaves(run[2][0]).items()}
    for ticket in both_tickets(run):
        leaves = [named_leaves(tree) for tree in (ticket.params, ticket.masks)]
        assert [sum(leaf is not None for leaf in named.values()) for named in leaves] == [4, 2]
        for named in leaves:
            for path, leaf in named.items():
                assert leaf is None or leaf.sharding.is_equivalent_to(homes[path], leaf.ndim)


@every_layout
def test_init_under_jit_draws_the_same_masks_beside_the_weights(name):
    layout, (params, opt_state), _, _ = trained(name)
    with in_types(layout):
        dense = layout.place(sharded.floats(sharded.weights()))
        topology = supjax.make_topology("rigl", density=0.3)
        inside = jax.jit(supjax.sparsify(optax.sgd(0.1), topology, KEY).init)(dense)
    for path, mask in named_leaves(opt_state.topology.masks).items():
        if mask is not None:
            np.testing.assert_array_equal(named_leaves(inside.topology.masks)[path], mask)
            noted = named_leaves(inside.ever_active)[path]
            assert noted.sharding.is_equivalent_to(named_leaves(params)[path].sharding, 2)


@every_layout
def test_bits_are_split_where_shards_hold_whole_bytes(name):
    layout, _, (_, opt_state), _ = trained(name)
    for path, bits in named_leaves(opt_state.bits).items():
        if bits is not None:
            spec = list(layout.specs[path])
            rows = named_leaves(opt_state.ever_active)[path].sharding.shard_shape
            shape = {"up/kernel": (16, 64), "down/kernel": (64, 16)}[path]
            expected = PartitionSpec(None if rows(shape)[0] % 8 else spec[0], spec[1])
            home = jax.sharding.NamedSharding(layout.mesh, expected)
            assert bits.sharding.is_equivalent_to(home, 2)


@every_layout
def test_an_ordinary_step_sends_what_the_dense_optimizer_sends(name):
    """All that is due on some steps only stands in one loop; the dense program has none."""
    layout, _, _, text = trained(name)
    dense = optax.sgd(0.2, momentum=0.9)
    with in_types(layout):
        params, _, x = start(layout, transformation())
        alone = traffic(program(layout, dense, params, dense.init(params), x).as_text())
    sparse = traffic(text)
    assert alone.always
    assert alone.gated == 0
    assert sparse.always == alone.always
    assert sparse.gated == 1
