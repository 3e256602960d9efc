"""The whole method as an optax transformation, beside the same by hand and by training steps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import supjax
from supjax.sup_tickets import with_cycles
from tests.helpers import tiny_problem

PLAN = supjax.CyclePlan(normal_steps=5, cycle_steps=3, num_cycles=2)
KEY = jax.random.key(1)
EXPLORED = 0.5


def tree_equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


def tree_close(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "normal"), [("rigl", [1, 3]), ("set", [1, 3]), ("static", []), ("dense", [])]
)
def test_updates_belong_to_the_normal_phase_and_cycles_begin_with_explorations(name, normal):
    options = {"update_every": 2, "drop_fraction": 0.25} if normal else {}
    density = {} if name == "dense" else {"density": 0.4}
    method = with_cycles(supjax.make_topology(name, **density, **options), PLAN, 0.75)
    assert [step for step in range(20) if method.due(step)] == [*normal, 5, 8]
    traced = jax.jit(jax.vmap(lambda step: method.due(step)))(jnp.arange(20))
    assert np.flatnonzero(traced).tolist() == [*normal, 5, 8]
    expected = [0.75 if step in (5, 8) else (0.25 if normal else 0) for step in range(12)]
    assert [method.drop_fraction(step) for step in range(12)] == expected
    rates = jax.jit(jax.vmap(lambda step: jnp.asarray(method.drop_fraction(step), float)))
    np.testing.assert_allclose(rates(jnp.arange(12)), expected)


def test_a_plan_without_cycles_leaves_the_normal_phase():
    plan = supjax.CyclePlan(normal_steps=4, cycle_steps=0, num_cycles=0)
    method = with_cycles(supjax.make_topology("rigl", density=0.5, update_every=2), plan)
    assert [step for step in range(10) if method.due(step)] == [1, 3]


def loss_fn(params, batch_stats, batch, key):
    return tiny_problem.loss_fn(params, batch), (batch_stats, {})


def by_training_steps(tx, topology, include_pretrained):
    """The main job's walk: train and topology steps by the plan; tickets after the phases."""
    host = topology if topology.grows else supjax.topologies.exploring(topology)
    state = supjax.create_train_state(KEY, tiny_problem.params(), tx, host)
    train_step = jax.jit(supjax.make_train_step(loss_fn, tx, host))
    topology_step = jax.jit(supjax.make_topology_step(loss_fn, tx, host))
    tickets, batch = [], tiny_problem.batch()
    for step in range(PLAN.total_steps):
        if step in PLAN.exploration_steps:
            state, _ = topology_step(state, batch, EXPLORED)
        elif step < PLAN.normal_steps and host.due(step):
            state, _ = topology_step(state, batch, host.drop_fraction(step))
        else:
            state, _ = train_step(state, batch)
        if step in PLAN.ticket_steps or (include_pretrained and step == PLAN.normal_steps - 1):
            tickets.append(state.ticket)
    return state, tickets


def scanned(sparse, steps):
    """Run a transformation under `jit` and `scan`; return the last weights and state."""
    params = tiny_problem.params()
    opt_state = sparse.init(params)
    params = supjax.sparse_params(params, opt_state)
    batch = tiny_problem.batch()

    @jax.jit
    def run(params, opt_state):
        def step(carry, _):
            params, opt_state = carry
            grads = jax.grad(tiny_problem.loss_fn)(params, batch)
            updates, opt_state = sparse.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(step, (params, opt_state), None, length=steps)[0]

    return run(params, opt_state)


# update_every=3 leaves the last step of the normal phase, 4, alone; 5 makes it an update step, so
# that the first member holds freshly grown zeros.
RUNS = [
    ("rigl", {"update_every": 3}, "cia", True),
    ("set", {"update_every": 5}, "caa", True),
    ("rigl", {"update_every": 5}, "cima", False),
    ("static", {}, "cia", False),
]


@pytest.mark.parametrize(("name", "options", "rule", "include"), RUNS)
def test_it_equals_training_by_the_plan_weight_for_weight(name, options, rule, include):
    tx = optax.sgd(0.2, momentum=0.9)
    topology = tiny_problem.topology(name, **options)
    sparse = supjax.sup_tickets(
        tx,
        topology,
        PLAN,
        KEY,
        exploration=EXPLORED,
        superposition=rule,
        include_pretrained=include,
    )
    params, opt_state = scanned(sparse, PLAN.total_steps)
    state, tickets = by_training_steps(tx, topology, include)
    assert len(tickets) == PLAN.num_cycles + include
    tree_equal(opt_state.topology, state.topology)
    tree_close(params, state.params)
    expected = supjax.superpose(tickets, average=rule)
    result = supjax.superposed(opt_state, params)
    tree_equal(result.masks, expected.masks)
    tree_close(result.params, expected.params)
    assert supjax.count_active(result.masks) == tiny_problem.ACTIVE
    assert jax.tree.structure(result.params) == jax.tree.structure(params)
    # Further steps change nothing that was superposed.
    after = scanned(sparse, PLAN.total_steps + 2)
    tree_close(supjax.superposed(after[1], after[0]).params, result.params)


@pytest.mark.parametrize(("rule", "further"), [("cia", 0), ("cima", 0), ("caa", 4)])
def test_the_state_is_one_more_masked_copy(rule, further):
    """4 bytes a weight and 1 a mask entry; "caa" counts how often weights were active, too."""
    params = {"w": jax.random.normal(KEY, (64, 96)), "bias": jnp.ones(96)}
    topology = supjax.make_topology("rigl", density=0.1, update_every=3)
    wrapped = (
        supjax.sparsify(optax.adam(0.1), topology, KEY),
        supjax.sup_tickets(optax.adam(0.1), topology, PLAN, KEY, superposition=rule),
    )
    less, more = (sum(x.nbytes for x in jax.tree.leaves(tx.init(params))) for tx in wrapped)
    copy = 4 * (64 * 96 + 96) + 64 * 96
    scalars = more - less - copy - further * 64 * 96
    assert 0 < scalars <= 12


def test_two_groups_of_weights_have_methods_of_their_own():
    keys = jax.random.split(jax.random.key(3))
    params = {
        name: {"kernel": jax.random.normal(k, (4, 8))} for name, k in zip("ab", keys, strict=True)
    }
    params["c"] = {"bias": jnp.ones(3)}
    make = supjax.make_topology
    first = supjax.sup_tickets(
        optax.sgd(0.1), make("rigl", density=0.25, update_every=2), PLAN, keys[0]
    )
    second = supjax.sparsify(optax.sgd(0.1), make("set", density=0.5, update_every=11), keys[1])
    tx = optax.multi_transform(
        {"first": first, "second": second, "rest": optax.sgd(0.1)},
        {"a": "first", "b": "second", "c": "rest"},
    )
    state = tx.init(params)
    params = supjax.sparse_params(params, state)
    with pytest.raises(ValueError, match=r"^the superposition has no member yet: .*$"):
        supjax.superposed(state, params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(PLAN.total_steps):
        params, state = step(params, state)
    # The last of the 11 steps was an update of the second group: its grown zeros are kept.
    ticket = supjax.take_ticket(params, state)
    supjax.check_sparse(params, state)
    counts = {name: supjax.count_active(ticket.masks[name]) for name in "ab"}
    assert counts == {"a": 8, "b": 16}
    assert ticket.masks["c"]["bias"] is None
    assert int(jnp.sum(params["b"]["kernel"] != 0)) < 16
    result = supjax.superposed(state, params)
    assert supjax.count_active(result.masks["a"]) == 8
    tree_equal(result.params["b"], ticket.params["b"])
    tree_equal(result.params["c"], params["c"])


def test_nodes_without_a_leaf_stay_without_one():
    params = {"w": jax.random.normal(KEY, (4, 6)), "bias": None, "more": [jnp.ones(3), None]}
    plan = supjax.CyclePlan(normal_steps=1, cycle_steps=1, num_cycles=1)
    topology = supjax.make_topology("rigl", density=0.5, update_every=2)
    tx = supjax.sup_tickets(optax.adam(0.1), topology, plan, KEY)
    state = tx.init(params)
    params = supjax.sparse_params(params, state)
    for _ in range(2):
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)
    result = supjax.superposed(state, params)
    assert jax.tree.structure(result.params) == jax.tree.structure(params)
    assert supjax.count_active(result.masks) == 12
    assert supjax.count_active(supjax.take_ticket(params, state).masks) == 12


BAD = [
    ({"plan": (9, 2, 1)}, TypeError, "plan must be a CyclePlan, got tuple"),
    ({"exploration": 1.5}, ValueError, "exploration must be"),
    ({"superposition": "mean"}, ValueError, "unknown averaging rule 'mean'; known: caa, cia, cima"),
    ({"superposition": 3}, TypeError, "superposition must be a name or a Superposition, got int"),
    (
        {"plan": supjax.CyclePlan(4, 2, 0)},
        ValueError,
        "sup_tickets needs a plan with at least one cycle, got CyclePlan(normal_steps=4",
    ),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_refusals_are_one_clear_line(changes, error, message):
    arguments = {"tx": optax.sgd(0.1), "topology": tiny_problem.topology(), "plan": PLAN}
    with pytest.raises(error, match=f"^{re.escape(message)}.*$"):
        supjax.sup_tickets(**{**arguments, "key": KEY, **changes})
