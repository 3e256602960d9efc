"""Every optimizer of optax, after weights are grown at a late step: finite, and not too far."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import supjax
from supjax.masked_update import (
    divided_entries,
    mask_optimizer_state,
    masked_update,
    start_grown,
)

SHAPE, STEPS, AFTER = (6, 8), 1000, 25

KEPT = np.arange(48).reshape(SHAPE) % 2 == 0
GROWN = np.arange(48).reshape(SHAPE) % 8 == 1

LIMIT = 10
"""Of the steps of grown weights, in mean steps of the weights that were there, now or at first."""

LIMITS = {"optimistic_adam": 20, "optimistic_adam_v2": 20}
"""It adds the last step's change, which for a grown weight is all of its step."""

NEEDS = {
    "adaptive_grad_clip", "add_noise", "apply_if_finite", "chain", "clip", "clip_by_block_rms",
    "clip_by_global_norm", "conditionally_mask", "conditionally_transform", "dpsgd", "ema",
    "differentially_private_aggregate", "flatten", "freeze", "inject_hyperparams",
    "inject_stateful_hyperparams", "lookahead", "masked", "measure_with_ema", "mechanize",
    "multi_transform", "partition", "sam", "scale", "scale_by_backtracking_linesearch",
    "scale_by_schedule", "scale_by_zoom_linesearch", "schedule_free", "selective_transform",
    "snapshot", "split_real_and_imaginary", "stateless", "stateless_with_tree_map", "trace",
    "with_extra_args_support",
}  # fmt: skip
"""What is no optimizer by itself: it needs another one, or a number."""

OTHERS = {
    "keep_params_nonnegative": "a clip of updates, which leaves what is zero",
    "lbfgs": "its line search takes a function of the loss",
    "reduce_on_plateau": "it scales updates to zero alone",
    "scale_by_distance_over_gradients": "its rate starts at nothing, and is that of a whole leaf",
    "scale_by_lbfgs": "it promotes ranks, which the tests forbid; lbfgs is made of it",
    "scale_by_muon": "it takes weights of two dimensions alone; muon itself is here",
    "scale_by_trust_ratio": "of SGD it is lars, of Adam lamb, which are here",
    "set_to_zero": "nothing moves",
    "sophia": "its Hessian takes a function of the loss",
}


def optimizers():
    """Name -> factory of every optimizer that can be made of a rate alone."""
    found = {}
    for module in (optax, contrib):
        for name in sorted(vars(module)):
            factory = getattr(module, name)
            if not inspect.isfunction(factory) or name.startswith("_"):
                continue
            returned = str(inspect.signature(factory).return_annotation)
            if "GradientTransformation" in returned and name not in NEEDS | OTHERS.keys():
                found[name] = factory
    return found


def make(factory):
    if "learning_rate" in inspect.signature(factory).parameters:
        return factory(learning_rate=1e-3)
    return optax.chain(factory(), optax.scale(-1e-3))


@functools.cache
def problem():
    """Weights, a target for them, and how steep the loss is at each, all far from each other."""
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=SHAPE), jnp.float32)}
    target = jnp.asarray(rng.normal(size=SHAPE) + 3, jnp.float32)
    steepness = jnp.asarray(np.exp(0.3 * rng.normal(size=SHAPE)), jnp.float32)
    return params, target, steepness


def moves(tx):
    """Absolute steps after weights are grown at step `STEPS`, and the first, `[AFTER, *SHAPE]`."""
    params, target, steepness = problem()
    tx = optax.with_extra_args_support(tx)

    def step(carry, index):
        params, state, masks = carry
        noise = 1 + 0.3 * jax.random.normal(jax.random.key(index), SHAPE)
        grads = {"kernel": steepness * jnp.tanh(params["kernel"] - target) * noise}
        updates, state = masked_update(tx, grads, state, params, masks, value=jnp.float32(1))
        after = optax.apply_updates(params, updates)
        return (after, state, masks), jnp.abs(updates["kernel"])

    @jax.jit
    def run(carry, first):
        return jax.lax.scan(step, carry, first + jnp.arange(AFTER))

    kept, masks = {"kernel": KEPT}, {"kernel": KEPT | GROWN}
    params = supjax.apply_masks(params, kept)
    carry = params, tx.init(params), kept
    carry, fresh = run(carry, 0)
    for first in range(AFTER, STEPS, AFTER):
        carry, _ = run(carry, first)
    params, state, _ = carry
    state = mask_optimizer_state(tx, state, params, kept)
    state = start_grown(tx, state, params, kept, masks, divided_entries(tx, params))
    return jax.device_get((run((params, state, masks), STEPS)[1], fresh))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Specifying a key")
@pytest.mark.parametrize("name", optimizers())
def test_steps_of_grown_weights_are_finite_and_as_those_of_their_layer(name):
    moved, fresh = moves(make(optimizers()[name]))
    assert np.isfinite(moved).all()
    assert moved[:, GROWN].max() > 0
    assert moved[:, GROWN].max() <= LIMITS.get(name, LIMIT) * max(
        moved[:, KEPT].mean(), fresh[:, KEPT].mean()
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_other_name_is_there_and_takes_more_than_a_rate():
    names = {*vars(optax), *vars(contrib)}
    assert names >= NEEDS | OTHERS.keys()
    for name in NEEDS:
        with pytest.raises((TypeError, ValueError)):
            vars(contrib).get(name, vars(optax).get(name))()


DIVIDING = {
    "acprop": (contrib.acprop(0.1), 1),
    "adopt": (contrib.adopt(0.1), 1),
    "in a chain": (optax.chain(optax.clip(1.0), contrib.acprop(0.1)), 1),
    "accumulated": (optax.MultiSteps(contrib.acprop(0.1), 2), 1),
    "of one group": (optax.masked(contrib.acprop(0.1), {"kernel": True}), 1),
    "adam": (optax.adam(0.1), 0),
    "adagrad": (optax.adagrad(0.1), 0),
    "momentum": (optax.sgd(0.1, momentum=0.9), 0),
    "no state": (optax.sgd(0.1), 0),
}


@pytest.mark.parametrize("name", DIVIDING)
def test_what_is_divided_by_unchanged_is_read_off_the_optimizer(name):
    tx, count = DIVIDING[name]
    assert sum(divided_entries(tx, problem()[0])) == count


def test_the_topology_step_starts_grown_weights_alike():
    params, target, steepness = problem()
    tx = contrib.acprop(1e-3)
    topology = supjax.make_topology("rigl", density=0.5, drop_fraction=0.2)

    def loss_fn(params, stats, batch, key):
        return 0.5 * jnp.sum(steepness * (params["kernel"] - target) ** 2), (stats, {})

    state = supjax.create_train_state(jax.random.key(0), params, tx, topology)
    train = jax.jit(supjax.make_train_step(loss_fn, tx, topology))
    move = jax.jit(supjax.make_topology_step(loss_fn, tx, topology))
    for _ in range(40):
        state, _ = train(state, None)
    before = state.topology.masks["kernel"]
    state, _ = move(state, None, 0.2)
    kept, grown = before & state.topology.masks["kernel"], state.topology.masks["kernel"] & ~before
    moment = state.opt_state[0].nu["kernel"]
    np.testing.assert_allclose(moment[grown], moment[kept].mean(), rtol=1e-5)
    after, _ = train(state, None)
    moved = jnp.abs(after.params["kernel"] - state.params["kernel"])
    assert moved[grown].max() < 10 * moved[kept].mean()


def test_sparsify_starts_grown_weights_alike():
    params, target, steepness = problem()
    topology = supjax.make_topology("rigl", density=0.5, update_every=40, drop_fraction=0.2)
    tx = supjax.sparsify(contrib.acprop(1e-3), topology, jax.random.key(0))

    @jax.jit
    def step(params, state):
        grads = {"kernel": steepness * (params["kernel"] - target)}
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    params = supjax.sparse_params(params, state)
    for _ in range(40):
        before = state.topology.masks["kernel"]
        params, state = step(params, state)
    masks = state.topology.masks["kernel"]
    kept, grown = before & masks, masks & ~before
    assert grown.any()
    moment = state.inner[0].nu["kernel"]
    np.testing.assert_allclose(moment[grown], moment[kept].mean(), rtol=1e-5)
    after, _ = step(params, state)
    moved = jnp.abs(after["kernel"] - params["kernel"])
    assert moved[grown].max() < 10 * moved[kept].mean()
