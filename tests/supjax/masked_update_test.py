"""One optimizer step inside the masks, and what an optimizer forgets outside them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from supjax.masked_update import mask_optimizer_state, masked_update
from tests.helpers import tiny_problem

MASK = jnp.arange(54).reshape(tiny_problem.SHAPE) % 3 == 0
MASKS = {
    "sparse": {"kernel": MASK, "bias": None},
    "scale": None,
    "dense": {"kernel": None, "bias": None},
}


def kernels(tree):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


def busy_state(tx):
    """The state after two steps of dense training."""
    params = tiny_problem.params()
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(params, state, params)
    return params, state


STATES = {
    "chain with masked parts": lambda: optax.chain(
        optax.clip(1.0), optax.masked(optax.trace(0.9), kernels), optax.scale_by_adam()
    ),
    "hyper-parameters in the state": lambda: optax.inject_hyperparams(optax.adam)(1e-3),
    "masked by a prefix of the tree": lambda: optax.masked(
        optax.trace(0.9), {"sparse": True, "scale": False, "dense": False}
    ),
    "two optimizers": lambda: optax.partition(
        {"k": optax.adam(0.1), "o": optax.sgd(0.1, momentum=0.9)},
        lambda tree: jax.tree.map(lambda leaf: "k" if leaf.ndim > 1 else "o", tree),
    ),
    "not zero at the start": lambda: optax.adagrad(0.1, initial_accumulator_value=0.25),
}


@pytest.mark.parametrize("name", STATES)
def test_only_entries_of_absent_weights_become_fresh(name):
    tx = STATES[name]()
    params, state = busy_state(tx)
    masked = mask_optimizer_state(tx, state, params, MASKS)
    fresh = tx.init(jax.tree.map(jnp.zeros_like, params))
    assert jax.tree.structure(masked) == jax.tree.structure(state)
    touched = 0
    for ours, old, new in zip(*map(jax.tree.leaves, (masked, state, fresh)), strict=True):
        if jnp.shape(old) == tiny_problem.SHAPE:
            touched += 1
            np.testing.assert_array_equal(ours, jnp.where(MASK, old, new), strict=True)
            assert (np.asarray(ours) != np.asarray(old)).any()
        else:
            np.testing.assert_array_equal(ours, old, strict=True)
    assert touched


def test_the_history_of_a_line_search_forgets_absent_weights():
    tx, params = optax.lbfgs(memory_size=3), tiny_problem.params()
    state = tx.init(params)
    extra = {"value": jnp.float32(1), "grad": params, "value_fn": lambda p: optax.tree.sum(p) ** 2}
    for _ in range(2):
        updates, state = tx.update(params, state, params, **extra)
        params = optax.apply_updates(params, updates)
    masked = mask_optimizer_state(tx, state, params, MASKS)
    histories = [
        (np.asarray(ours), np.asarray(old))
        for ours, old in zip(jax.tree.leaves(masked), jax.tree.leaves(state), strict=True)
        if jnp.shape(old) == (3, *tiny_problem.SHAPE)
    ]
    assert len(histories) == 2
    for ours, old in histories:
        assert (old[:, ~MASK] != 0).any()
        np.testing.assert_array_equal(ours, np.where(MASK, old, 0))


def test_an_isinstance_walk_is_not_needed_for_a_state_of_ones_own():
    def init(params):
        return {"mine": jax.tree.map(jnp.ones_like, params), "steps": jnp.zeros((), int)}

    tx = optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))
    params = {"w": jnp.ones((1, 2))}
    masks = {"w": jnp.asarray([[True, False]])}
    state = {"mine": {"w": jnp.full((1, 2), 5.0)}, "steps": jnp.int32(3)}
    masked = mask_optimizer_state(tx, state, params, masks)
    assert masked["mine"]["w"].tolist() == [[5.0, 1.0]]
    assert masked["steps"] == 3


def test_statistics_of_other_shapes_stay():
    tx = optax.adafactor(0.1, min_dim_size_to_factor=4)
    params, state = busy_state(tx)
    masked = mask_optimizer_state(tx, state, params, MASKS)
    for ours, old in zip(jax.tree.leaves(masked), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours, old)


def test_what_the_optimizer_sees_is_masked_and_where_the_weights_land():
    seen = {}

    def update(updates, state, params, *, hint):
        seen.update(updates=updates, state=state, params=params, hint=hint)
        return jax.tree.map(lambda p: jnp.full_like(p, 10.0), params), state

    tx = optax.GradientTransformationExtraArgs(lambda params: params, update)
    params = {"w": jnp.asarray([[1.0, 2.0]]), "b": jnp.asarray([3.0])}
    masks = {"w": jnp.asarray([[True, False]]), "b": None}
    grads = {"w": jnp.asarray([[4.0, jnp.nan]]), "b": jnp.asarray([5.0])}
    updates, _ = masked_update(tx, grads, params, params, masks, hint="hint")
    assert seen["updates"]["w"].tolist() == [[4.0, 0.0]]
    assert seen["params"]["w"].tolist() == [[1.0, 0.0]]
    assert seen["state"]["w"].tolist() == [[1.0, 0.0]]
    assert (seen["updates"]["b"].item(), seen["params"]["b"].item()) == (5.0, 3.0)
    assert seen["hint"] == "hint"
    assert optax.apply_updates(params, updates)["w"].tolist() == [[11.0, 0.0]]
    assert updates["b"].tolist() == [10.0]


def test_a_weight_of_low_precision_lands_exactly_on_zero():
    params = {"w": jnp.asarray([[1.0, 1 / 3]], jnp.bfloat16)}
    masks = {"w": jnp.asarray([[True, False]])}
    tx = optax.sgd(0.1)
    updates, _ = masked_update(tx, params, tx.init(params), params, masks)
    moved = optax.apply_updates(params, updates)["w"]
    assert (moved.dtype, moved[0, 1].item()) == (jnp.bfloat16, 0.0)


def test_masking_needs_no_memory_of_its_own():
    tx, params = optax.sgd(0.1, momentum=0.9), {"w": jnp.ones((512, 512))}
    masks = {"w": jnp.ones((512, 512), bool)}

    def plain(params, state, masks):
        del masks
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    def masked(params, state, masks):
        updates, state = masked_update(tx, params, state, params, masks)
        return optax.apply_updates(params, updates), state

    def temporary_bytes(step):
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params), masks)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(masked) <= temporary_bytes(plain) + 1024
