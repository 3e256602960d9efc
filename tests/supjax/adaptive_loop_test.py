"""Cycles whose rate and explored share are set between them, in one compiled optax loop."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import supjax
from supjax.adaptive import adaptive_schedule
from tests.helpers import tiny_problem

PLAN = supjax.CyclePlan(normal_steps=5, cycle_steps=3, num_cycles=2)
KEY = jax.random.key(1)
HIGHS, SHARES = (0.3, 0.05), (0.5, 0.125)


def by_schedule(tx, name):
    """The same cycles written down before the run."""

    def exploration(step):
        return jnp.where(step < PLAN.exploration_steps[1], *SHARES)

    method = tiny_problem.topology(name, update_every=2)
    return supjax.sup_tickets(tx, method, PLAN, KEY, exploration=exploration)


def rate(step):
    high = jnp.where(step <= PLAN.ticket_steps[0], *HIGHS)
    return supjax.sup_tickets_schedule(lambda step: 0.1, PLAN, 0.01, high)(step)


def run(tx, changes):
    """Train all steps in one compiled function, changing the state before some of them."""
    weights = tiny_problem.params()
    opt_state = tx.init(weights)
    weights = supjax.sparse_params(weights, opt_state)
    batch = tiny_problem.batch()

    @jax.jit
    def step(weights, opt_state):
        grads = jax.grad(tiny_problem.loss_fn)(weights, batch)
        updates, opt_state = tx.update(grads, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state

    for i in range(PLAN.total_steps):
        opt_state = optax.tree.set(opt_state, **changes.get(i, {}))
        weights, opt_state = step(weights, opt_state)
    assert step._cache_size() == 1
    return weights, opt_state


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("rigl", optax.sgd), ("snfs", optax.adam)],  # snfs has a state of its own
)
def test_values_set_between_cycles_act_as_if_they_had_been_known(name, optimizer):
    inject = optax.inject_hyperparams(optimizer)
    adaptive = supjax.sup_tickets(
        inject(learning_rate=adaptive_schedule(lambda step: 0.1, PLAN, 0.01, HIGHS[0])),
        tiny_problem.topology(name, update_every=2),
        PLAN,
        KEY,
        exploration=SHARES[0],
        exploration_in_state=True,
    )
    after = PLAN.ticket_steps[0] + 1
    changes = {after: {"high": jnp.float32(HIGHS[1]), "exploration": jnp.float32(SHARES[1])}}
    weights, state = run(adaptive, changes)
    expected, known = run(by_schedule(inject(learning_rate=rate), name), {})
    np.testing.assert_allclose(optax.tree.get(state, "high"), HIGHS[1])
    np.testing.assert_allclose(optax.tree.get(state, "exploration"), SHARES[1])
    ours, theirs = supjax.take_ticket(weights, state), supjax.take_ticket(expected, known)
    jax.tree.map(np.testing.assert_array_equal, ours.masks, theirs.masks)
    for one, other in zip(
        jax.tree.leaves((ours.params, supjax.superposed(state, weights).params)),
        jax.tree.leaves((theirs.params, supjax.superposed(known, expected).params)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_share_that_is_set_moves_as_much():
    tx = supjax.sup_tickets(
        optax.sgd(1e-3),
        tiny_problem.topology(update_every=100),
        PLAN,
        KEY,
        exploration=0.0,
        exploration_in_state=True,
    )
    moved = {}
    for share in (0.0, 0.5):
        change = {PLAN.exploration_steps[1]: {"exploration": jnp.float32(share)}}
        weights, state = run(tx, change)
        masks = supjax.take_ticket(weights, state).masks
        start = supjax.take_ticket(weights, tx.init(tiny_problem.params())).masks
        moved[share] = supjax.iou(masks, start)
    assert moved[0.0] == 1 > moved[0.5]


def test_the_rates_are_those_of_the_fixed_schedule_at_the_same_height():
    for cycle in ("triangular", "sawtooth", "constant"):
        fixed = supjax.sup_tickets_schedule(lambda step: 0.1, PLAN, 0.01, 0.3, cycle=cycle)
        ours = adaptive_schedule(lambda step: 0.1, PLAN, 0.01, 0.3, cycle=cycle)
        state, found = ours.init(), []
        for _ in range(PLAN.total_steps):
            found.append(float(ours(state)))
            state = ours.update(state)
        expected = [fixed(step) for step in range(PLAN.total_steps)]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: adaptive_schedule(lambda step: 0.1, PLAN, 0.5, 0.3),
            "the cycle needs 0 <= low <= high, got low=0.5, high=0.3",
        ),
        (
            lambda: supjax.with_cycles(
                tiny_problem.topology(), PLAN, lambda step: 0.5, exploration_in_state=True
            ),
            "exploration must be a number to be in the state, got a schedule",
        ),
    ],
)
def test_what_does_not_do_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
