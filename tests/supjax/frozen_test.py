"""Which leaves an optimizer trains, read off its program; what is frozen keeps its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import supjax
from supjax.frozen import frozen_leaves, without_frozen

PARAMS = {"base": jnp.ones((6, 8)), "head": jnp.ones((8, 2))}
LABELS = {"base": "z", "head": "a"}


def only_base(tree):
    return {"base": True, "head": False}


OPTIMIZERS = {
    "adam": (optax.adam(0.1), []),
    "zero rate of a schedule": (optax.adam(optax.linear_schedule(0.0, 1.0, 10)), []),
    "injected rate of zero": (optax.inject_hyperparams(optax.sgd)(learning_rate=0.0), []),
    "partition": (
        optax.partition({"a": optax.adam(0.1), "z": optax.set_to_zero()}, LABELS),
        ["base"],
    ),
    "callable labels": (
        optax.multi_transform({"a": optax.sgd(0.1), "z": optax.set_to_zero()}, lambda p: LABELS),
        ["base"],
    ),
    "masked zeros": (
        optax.chain(optax.adam(0.1), optax.masked(optax.set_to_zero(), only_base)),
        ["base"],
    ),
    "freeze": (
        optax.chain(optax.sgd(0.1), optax.transforms.freeze({"base": True, "head": False})),
        ["base"],
    ),
    "clipped before": (
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.partition({"a": optax.adam(0.1), "z": optax.set_to_zero()}, LABELS),
        ),
        ["base"],
    ),
    "decay of weights": (
        optax.partition({"a": optax.adamw(0.1), "z": optax.set_to_zero()}, LABELS),
        ["base"],
    ),
    "accumulated": (
        optax.MultiSteps(
            optax.partition({"a": optax.adam(0.1), "z": optax.set_to_zero()}, LABELS), 2
        ),
        ["base"],
    ),
}


@pytest.mark.parametrize(("tx", "expected"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_leaf_is_frozen_if_its_update_does_not_depend_on_its_gradient(tx, expected):
    assert sorted(frozen_leaves(tx, PARAMS)) == expected


@pytest.mark.parametrize("name", ["set", "rigl", "snfs", "dsr", "mest"])
def test_a_frozen_leaf_keeps_its_weights_and_the_rest_the_density(name):
    tx = OPTIMIZERS["partition"][0]
    topology = supjax.make_topology(name, density=0.25, update_every=2)
    sparse = supjax.sparsify(tx, topology, jax.random.key(0))
    params = jax.tree.map(
        lambda leaf: leaf * jnp.arange(1.0, leaf.size + 1).reshape(leaf.shape), PARAMS
    )
    state = sparse.init(params)
    base, weights = params["base"], supjax.sparse_params(params, state)

    @jax.jit
    def step(weights, state):
        updates, state = sparse.update(weights, state, weights)
        return optax.apply_updates(weights, updates), state

    for _ in range(4):
        weights, state = step(weights, state)
    np.testing.assert_array_equal(weights["base"], base)
    masks = supjax.take_ticket(weights, state).masks
    assert masks["base"] is None
    assert int(masks["head"].sum()) == 4


def test_a_frozen_leaf_keeps_the_masks_that_it_is_given():
    masks = supjax.init_masks(jax.random.key(2), PARAMS, 0.5)
    topology = supjax.make_topology("rigl", density=0.5, update_every=1)
    sparse = supjax.sparsify(OPTIMIZERS["partition"][0], topology, jax.random.key(0), masks=masks)
    params = PARAMS
    state = sparse.init(params)
    params = supjax.sparse_params(params, state)
    grads = jax.tree.map(lambda leaf: jnp.where(leaf == 0, 9.0, 0.1), params)
    updates, state = sparse.update(grads, state, params)
    supjax.check_sparse(optax.apply_updates(params, updates), state)
    now = state.topology.masks
    np.testing.assert_array_equal(now["base"], masks["base"])
    assert supjax.count_active(now["head"]) == supjax.count_active(masks["head"])
    assert supjax.iou(now["head"], masks["head"]) < 1


@pytest.mark.parametrize("rule", ["cia", "caa", "cima"])
def test_a_superposition_prunes_nothing_of_a_frozen_leaf(rule):
    """Its small weights do not make room for the union of what the others grew."""
    masks = supjax.init_masks(jax.random.key(2), PARAMS, 0.5)
    params = supjax.apply_masks({"base": PARAMS["base"] / 1000, "head": PARAMS["head"]}, masks)
    sparse = supjax.sup_tickets(
        OPTIMIZERS["partition"][0],
        supjax.make_topology("set", density=0.5),
        supjax.CyclePlan(normal_steps=1, cycle_steps=2, num_cycles=3),
        jax.random.key(0),
        superposition=rule,
        masks=masks,
    )
    state, weights = sparse.init(params), params

    @jax.jit
    def step(weights, state):
        updates, state = sparse.update(jax.tree.map(jnp.cos, weights), state, weights)
        return optax.apply_updates(weights, updates), state

    for _ in range(7):
        weights, state = step(weights, state)
    result = supjax.superposed(state, weights)
    np.testing.assert_array_equal(result.params["base"], params["base"])
    np.testing.assert_array_equal(result.masks["base"], masks["base"])
    assert supjax.count_active(result.masks) == supjax.count_active(masks)


def test_a_method_without_frozen_leaves_is_itself():
    topology = supjax.make_topology("rigl", density=0.5)
    assert without_frozen(topology, frozenset()) is topology


def test_init_says_if_it_cannot_find_out_what_is_frozen():
    def update(updates, state, params=None, *, hint):
        return jax.tree.map(lambda u: -hint * u, updates), state

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    topology = supjax.make_topology("rigl", density=0.5, update_every=2)
    sparse = supjax.sparsify(tx, topology, jax.random.key(0))
    with pytest.warns(UserWarning, match=r"^the optimizer cannot be traced .* 'hint'\)$") as caught:
        state = sparse.init(PARAMS)
    assert "\n" not in str(caught[0].message)
    params = supjax.sparse_params(PARAMS, state)
    updates, state = sparse.update(params, state, params, hint=0.5)  # and says it only once
    assert float(optax.apply_updates(params, updates)["head"].max()) == 0.5
