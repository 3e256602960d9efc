"""`sparsify` step by step: when masks move, what the wrapped optimizer sees, what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import supjax
from supjax import sparsify
from tests.helpers import registry, tiny_problem


def sparse_kernel(tree):
    return np.asarray(tree["sparse"]["kernel"])


def assert_same_bits(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


MOVING = ["set", "rigl", "snfs", "dsr", "mest", "gmp", "granet"]


@pytest.mark.parametrize("name", MOVING)
def test_masks_move_right_after_the_steps_that_are_due(name):
    ramp = {"ramp_end": 5} if name in registry.RAMPS else {"drop_fraction": 0.5, "stop": 7}
    topology = tiny_problem.topology(name, update_every=3, **ramp)
    tx = sparsify(optax.sgd(0.2, momentum=0.9), topology, jax.random.key(1))
    moved, before = [], None
    for index, (params, state, _) in enumerate(tiny_problem.train(tx, 9), start=-1):
        mask = sparse_kernel(state.topology.masks)
        np.testing.assert_array_equal(sparse_kernel(params)[~mask], 0)
        if before is not None and (mask != before).any():
            moved.append(index)
        before = mask
    expected = [step for step in range(9) if topology.due(step)]
    assert moved == ([2, 5] if name == "gmp" else expected)  # its ramp ends before the last one
    assert mask.sum() == tiny_problem.ACTIVE
    assert state.step == 9


@pytest.mark.parametrize("name", ["dense", "static"])
def test_fixed_masks_stay(name):
    topology = registry.build(name, filter_fn=tiny_problem.filter_fn)
    runs = list(tiny_problem.train(sparsify(optax.adam(0.05), topology, jax.random.key(1)), 5))
    masks = [sparse_kernel(state.topology.masks) for _, state, _ in runs]
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    assert runs[-1][2] < runs[1][2]


def test_an_update_at_every_step():
    tx = sparsify(optax.sgd(0.1), tiny_problem.topology("set", update_every=1), jax.random.key(1))
    before = None
    for params, state, _ in tiny_problem.train(tx, 4):
        mask = sparse_kernel(state.topology.masks)
        assert mask.sum() == tiny_problem.ACTIVE
        np.testing.assert_array_equal(sparse_kernel(params)[~mask], 0)
        if before is not None:
            assert (sparse_kernel(params)[mask & before] != 0).all()
            np.testing.assert_array_equal(sparse_kernel(params)[mask & ~before], 0)
        before = mask


def test_a_grown_weight_starts_at_zero_and_moves_with_the_next_step():
    tx = sparsify(optax.sgd(0.1), tiny_problem.topology(update_every=2), jax.random.key(1))
    runs = list(tiny_problem.train(tx, 3))
    masks = [sparse_kernel(state.topology.masks) for _, state, _ in runs]
    grown = masks[2] & ~masks[1]
    assert grown.any()
    np.testing.assert_array_equal(sparse_kernel(runs[2][0])[grown], 0)
    assert (sparse_kernel(runs[3][0])[grown] != 0).any()


def train_with_steps(tx, topology, steps, key):
    """The same loop with the library's own train and topology steps."""

    def loss_fn(params, batch_stats, batch, key):
        return tiny_problem.loss_fn(params, batch), (batch_stats, {})

    state = supjax.create_train_state(key, tiny_problem.params(), tx, topology)
    train_step = jax.jit(supjax.make_train_step(loss_fn, tx, topology))
    topology_step = jax.jit(supjax.make_topology_step(loss_fn, tx, topology))
    batch = tiny_problem.batch()
    for index in range(steps):
        if topology.due(index):
            state, _ = topology_step(state, batch, topology.drop_fraction(index))
        else:
            state, _ = train_step(state, batch)
        yield state


LOOPS = {
    "static, momentum": ("static", {}, optax.sgd(0.2, momentum=0.9)),
    "rigl, momentum": ("rigl", {"update_every": 3}, optax.sgd(0.2, momentum=0.9)),
    "rigl, adamw": ("rigl", {"update_every": 3}, optax.adamw(0.05)),
    "granet, sgd": ("granet", {"update_every": 3, "ramp_end": 5}, optax.sgd(0.2)),
}


@pytest.mark.parametrize(("name", "options", "tx"), LOOPS.values(), ids=LOOPS)
def test_the_loop_equals_train_and_topology_steps_bit_for_bit(name, options, tx):
    topology = tiny_problem.topology(name, **options)
    key = jax.random.key(1)
    ours = list(tiny_problem.train(sparsify(tx, topology, key), 7))[1:]
    theirs = train_with_steps(tx, topology, 7, key)
    for (params, state, _), expected in zip(ours, theirs, strict=True):
        assert_same_bits(state.topology, expected.topology)
        assert_same_bits(params, expected.params)
        assert_same_bits(state.inner, expected.opt_state)


def test_several_networks_train_side_by_side():
    tx = sparsify(optax.sgd(0.1), tiny_problem.topology(update_every=2), jax.random.key(1))
    params = tiny_problem.params()
    state = tx.init(params)
    params = supjax.sparse_params(params, state)
    grads = [jax.grad(tiny_problem.loss_fn)(params, tiny_problem.batch())]
    grads += [jax.tree.map(lambda g: -2 * g[::-1], grads[0])]
    state = state._replace(step=jnp.int32(1))  # the next step is due

    def update(grads):
        return tx.update(grads, state, params)

    stacked = jax.jit(jax.vmap(update))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads))
    for index, one in enumerate(grads):
        updates, after = jax.jit(update)(one)
        expected = (updates, after.topology.masks)
        got = jax.tree.map(lambda leaf, i=index: leaf[i], (stacked[0], stacked[1].topology.masks))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)


@pytest.mark.parametrize("tx", [optax.sgd(0.1, momentum=0.9), optax.adamw(0.1)], ids=["m", "a"])
def test_a_step_without_an_update_copies_no_weights(tx):
    params = {"w": jnp.ones((512, 512))}
    sparse = sparsify(tx, supjax.make_topology("rigl", density=0.1), jax.random.key(1))
    state = sparse.init(params)

    def step(params, state, grads):
        updates, state = sparse.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    every_step = compiled.as_text().partition("\nENTRY ")[2]
    assert " while(" in every_step  # the topology update, of no turn or one
    assert not re.search(r"\[512,512\]\S* copy\(", every_step)
    assert not re.search(r"= pred\[512,512\]\S* fusion\(", every_step)  # bits stay packed


def test_further_arguments_reach_the_optimizer():
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
    tx = sparsify(optax.chain(optax.sgd(0.1), plateau), tiny_problem.topology(), jax.random.key(1))
    params = tiny_problem.params()
    state = tx.init(params)
    for _ in range(4):
        _, state = tx.update(params, state, params, value=jnp.float32(1.0))
    assert state.inner[1].scale < 1


def test_a_typed_key_decides_the_masks():
    params = tiny_problem.params()

    def masks(seed):
        return sparsify(optax.sgd(0.1), tiny_problem.topology(), jax.random.key(seed)).init(params)

    assert_same_bits(masks(0).topology, masks(0).topology)
    assert supjax.iou(masks(0).topology.masks, masks(1).topology.masks) < 1


def test_the_state_is_found_inside_other_wrappers():
    tx = sparsify(optax.sgd(0.1), tiny_problem.topology(), jax.random.key(1))
    params = tiny_problem.params()
    wrapped = optax.chain(optax.clip_by_global_norm(1.0), tx)
    state = wrapped.init(params)
    assert supjax.sparsify_state(state) is state[1]
    masked = supjax.sparse_params(params, state)
    assert supjax.count_active(masked["sparse"]) == tiny_problem.ACTIVE
    assert_same_bits(masked["dense"], params["dense"])


def update_without_params():
    tx = sparsify(optax.sgd(0.1), tiny_problem.topology(), jax.random.key(1))
    params = tiny_problem.params()
    tx.update(params, tx.init(params))


BAD = [
    (
        update_without_params,
        ValueError,
        "sparsify needs the weights: call update(grads, state, params)",
    ),
    (
        lambda: sparsify(optax.sgd(0.1), tiny_problem.topology(), 0),
        TypeError,
        "key must be a typed PRNG key, as jax.random.key(0) makes, got int",
    ),
    (
        lambda: sparsify(optax.sgd(0.1), tiny_problem.topology(), jax.random.PRNGKey(0)),
        TypeError,
        "key must be a typed PRNG key, as jax.random.key(0) makes, got uint32 array",
    ),
    (
        lambda: sparsify(optax.sgd, tiny_problem.topology(), jax.random.key(0)),
        TypeError,
        "tx must be an optax optimizer with init and update, got function",
    ),
    (
        lambda: sparsify(optax.sgd(0.1), "rigl", jax.random.key(0)),
        TypeError,
        "topology must be a TopologyTransform, as make_topology makes, got str",
    ),
    (
        lambda: sparsify(optax.sgd(0.1), supjax.make_topology("snip", density=0.5), KEY).init(
            tiny_problem.params()
        ),
        ValueError,
        "snip scores the network at init: pass loss_fn= to its init function",
    ),
    (
        lambda: sparsify(optax.sgd(0.1), supjax.make_topology("static", density=0.5), KEY).init(
            {"bias": jnp.ones(3)}
        ),
        ValueError,
        "params hold no maskable weight (a kernel by name and shape, or filter_fn's choice)",
    ),
    (
        lambda: supjax.sparsify_state(optax.sgd(0.1).init({})),
        ValueError,
        "the optimizer state holds no SparsifyState: wrap the optimizer with sparsify",
    ),
]
KEY = jax.random.key(0)


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_refusals_are_one_clear_line(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
