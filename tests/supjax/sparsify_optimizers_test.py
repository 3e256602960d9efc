"""`sparsify` around every kind of optax optimizer, where the closest peer raises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import supjax
from tests.helpers import tiny_problem

STEPS, EVERY = 8, 3


def kernels(tree):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


def labels(tree):
    return jax.tree.map(lambda leaf: "kernel" if leaf.ndim > 1 else "other", tree)


def partitioned():
    return optax.partition(
        {"kernel": optax.adamw(0.05), "other": optax.sgd(0.2, momentum=0.9)}, labels
    )


def masked_chain():
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.add_decayed_weights(1e-2), kernels),
        optax.masked(optax.trace(0.9), kernels),
        optax.scale(-0.2),
    )


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.3),
    "momentum": lambda: optax.sgd(0.2, momentum=0.9),
    "nesterov in bfloat16": lambda: optax.sgd(
        0.2, momentum=0.9, nesterov=True, accumulator_dtype=jnp.bfloat16
    ),
    "adam": lambda: optax.adam(0.05),
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.1),
    "adamw of kernels": lambda: optax.adamw(0.05, mask=kernels),
    "amsgrad": lambda: optax.amsgrad(0.05),
    "lion": lambda: optax.lion(0.02),
    "rmsprop": lambda: optax.rmsprop(0.02, momentum=0.9, centered=True),
    "adagrad": lambda: optax.adagrad(0.3),
    "rprop": lambda: optax.rprop(0.02),
    "adafactor": lambda: optax.adafactor(0.3, min_dim_size_to_factor=4),
    "adafactor, not factored": lambda: optax.adafactor(0.3, momentum=0.5),
    "sm3": lambda: optax.sm3(0.2),
    "muon": lambda: contrib.muon(0.1),
    "schedule-free sgd": lambda: contrib.schedule_free_sgd(0.5, weight_decay=1e-2),
    "schedule-free adamw": lambda: contrib.schedule_free_adamw(0.1, weight_decay=1e-2),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(
        learning_rate=optax.cosine_decay_schedule(0.05, 20)
    ),
    "injected, masked": lambda: optax.inject_hyperparams(optax.adamw, static_args="mask")(
        learning_rate=0.05, mask=kernels
    ),
    "accumulated": lambda: optax.MultiSteps(optax.adam(0.05), 2),
    "partitioned": partitioned,
    "frozen": lambda: optax.partition(
        {"kernel": optax.adam(0.05), "other": optax.set_to_zero()}, labels
    ),
    "if finite": lambda: optax.apply_if_finite(optax.adam(0.05), 3),
    "masked chain": masked_chain,
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.05)),
}

STATE_TOLERANCE = {"adafactor, not factored": 1e-25}
"""Its second moment adds an epsilon to every squared gradient, also to those of absent weights."""

COUNTS = {"accumulated": STEPS // 2}
"""Optimizer steps after all calls, where they are not as many."""


def weight_shaped(tree):
    """The leaves of an optimizer state that belong to the sparse kernel."""
    return [leaf for leaf in jax.tree.leaves(tree) if np.shape(leaf) == tiny_problem.SHAPE]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_step_keeps_the_network_and_the_optimizer_sparse(name):
    tx = OPTIMIZERS[name]()
    sparse = supjax.sparsify(
        tx, tiny_problem.topology(update_every=EVERY, drop_fraction=0.5), jax.random.key(1)
    )
    zeros = jax.tree.map(jnp.zeros_like, tiny_problem.params())
    fresh = weight_shaped(tx.init(zeros))
    losses, before = [], None
    for index, (params, state, loss) in enumerate(tiny_problem.train(sparse, STEPS), start=-1):
        mask = np.asarray(state.topology.masks["sparse"]["kernel"])
        kernel = np.asarray(params["sparse"]["kernel"])
        assert mask.sum() == tiny_problem.ACTIVE
        np.testing.assert_array_equal(kernel[~mask], 0)
        assert np.isfinite(kernel).all()
        grown = np.zeros_like(mask) if before is None else mask & ~before
        assert grown.any() == (index >= 0 and (index + 1) % EVERY == 0)
        np.testing.assert_array_equal(kernel[grown], 0)
        if name.startswith("schedule-free"):
            averaged = contrib.schedule_free_eval_params(state.inner, params)
            np.testing.assert_array_equal(averaged["sparse"]["kernel"][~mask], 0)
        absent = ~mask | grown
        for entry, start in zip(weight_shaped(state.inner), fresh, strict=True):
            np.testing.assert_allclose(
                np.asarray(entry, np.float32)[absent],
                np.asarray(start, np.float32)[absent],
                rtol=0,
                atol=STATE_TOLERANCE.get(name, 0),
            )
        losses.append(loss)
        before = mask
    assert losses[-1] < 0.95 * losses[1]
    counts = [
        int(count) for _, count in optax.tree_utils.tree_get_all_with_path(state.inner, "count")
    ]
    assert set(counts) <= {COUNTS.get(name, STEPS)}


def test_accumulation_outside_hands_over_mean_gradients():
    sparse = supjax.sparsify(
        optax.adam(0.05), tiny_problem.topology(update_every=2), jax.random.key(1)
    )
    moves, before = [], None
    for index, (params, state, _) in enumerate(
        tiny_problem.train(optax.MultiSteps(sparse, 2), 8), start=-1
    ):
        inner = supjax.sparsify_state(state)
        mask = np.asarray(inner.topology.masks["sparse"]["kernel"])
        assert mask.sum() == tiny_problem.ACTIVE
        np.testing.assert_array_equal(np.asarray(params["sparse"]["kernel"])[~mask], 0)
        if before is not None and (mask != before).any():
            moves.append(index)
        before = mask
    assert moves == [3, 7]
    assert inner.step == 4


def test_steps_that_are_not_finite_are_skipped_whole():
    sparse = supjax.sparsify(optax.adam(0.05), tiny_problem.topology(), jax.random.key(1))
    tx = optax.apply_if_finite(sparse, 3)
    params = tiny_problem.params()
    state = tx.init(params)
    params = supjax.sparse_params(params, state)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    updates, after = jax.jit(tx.update)(grads, state, params)
    assert not any(jnp.any(u != 0) for u in jax.tree.leaves(updates))
    assert supjax.sparsify_state(after).step == 0
    grads = jax.tree.map(jnp.ones_like, params)
    assert supjax.sparsify_state(jax.jit(tx.update)(grads, after, params)[1]).step == 1
