"""What is read from, and put into, the state of `sparsify`: tickets, masks, bytes, leaks."""

import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization

import supjax
from tests.helpers import tiny_problem

KEY = jax.random.key(1)


def tree_equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_a_ticket_on_an_update_step_keeps_its_freshly_grown_zeros(every):
    topology = tiny_problem.topology(update_every=every, drop_fraction=0.5)
    runs = list(tiny_problem.train(supjax.sparsify(optax.sgd(0.2), topology, KEY), 4))
    left = []
    for params, state, _ in runs[1:]:
        ticket = supjax.take_ticket(params, state, batch_stats={"mean": jnp.ones(1)})
        assert supjax.count_active(ticket.masks) == tiny_problem.ACTIVE
        left.append(int(jnp.sum(ticket.params["sparse"]["kernel"] != 0)))
        tree_equal(ticket.params, params)
        assert ticket.batch_stats["mean"] == 1
    assert left[every - 1] < tiny_problem.ACTIVE  # grown by the first update, still zero


def test_a_transformation_that_leaks_is_caught():
    sparse = supjax.sparsify(optax.sgd(0.1), tiny_problem.topology(), KEY)
    noisy = optax.chain(sparse, optax.add_decayed_weights(0.1), optax.add_noise(0.1, 0.1, 0))
    for tx, leaks in ((sparse, False), (noisy, True)):
        params = tiny_problem.params()
        state = tx.init(params)
        params = supjax.sparse_params(params, state)
        supjax.check_sparse(params, state)
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)
        if leaks:
            absent = 6 * 9 - tiny_problem.ACTIVE
            message = (
                f"{absent} weights outside the masks are not zero at 'sparse/kernel'; "
                "wrap the whole optimizer"
            )
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                supjax.check_sparse(params, state)
        else:
            supjax.check_sparse(params, state)


def test_a_leak_cannot_be_looked_for_under_a_trace():
    tx = supjax.sparsify(optax.sgd(0.1), tiny_problem.topology(), KEY)
    params = tiny_problem.params()
    with pytest.raises(ValueError, match=r"^check_sparse needs concrete weights: call it"):
        jax.jit(supjax.check_sparse)(params, tx.init(params))


@pytest.mark.parametrize("name", ["rigl", "static", "dsr", "granet"])
def test_given_masks_are_gone_on_with(name):
    timetable = {"static": {}, "granet": {"update_every": 3, "ramp_end": 6}}
    topology = tiny_problem.topology(name, **timetable.get(name, {"update_every": 3}))
    params = tiny_problem.params()
    masks = supjax.init_masks(jax.random.key(7), params, 0.4, filter_fn=tiny_problem.filter_fn)
    ticket = supjax.Ticket(supjax.apply_masks(params, masks), masks)
    plan = supjax.CyclePlan(normal_steps=3, cycle_steps=2, num_cycles=1)
    makers = (supjax.sparsify, lambda *a, **k: supjax.sup_tickets(*a[:2], plan, a[2], **k))
    for make in makers:
        for given in (masks, ticket):
            state = make(optax.adam(0.1), topology, KEY, masks=given).init(params)
            tree_equal(state.topology.masks, masks)
            tree_equal(state.topology.ever_active, masks)
    trained = supjax.create_train_state(KEY, params, optax.sgd(0.1), topology, masks=ticket)
    tree_equal(trained.ticket.masks, masks)
    tree_equal(trained.params, ticket.params)


def test_masks_put_into_the_state_are_the_only_truth():
    tx = supjax.sparsify(optax.sgd(0.1), tiny_problem.topology(), KEY)
    params = tiny_problem.params()
    state = tx.init(params)
    masks = supjax.init_masks(jax.random.key(7), params, 0.2, filter_fn=tiny_problem.filter_fn)
    state = state._replace(topology=state.topology._replace(masks=masks))
    tree_equal(state.topology.masks, masks)
    params = supjax.sparse_params(params, state)
    updates, state = tx.update(params, state, params)
    tree_equal(state.topology.masks, masks)
    supjax.check_sparse(optax.apply_updates(params, updates), state)


BAD_MASKS = [
    ({"w": jnp.ones((2, 3), bool)}, ValueError, "mask at 'w' has shape (2, 3), params have (2, 2)"),
    ({"w": jnp.ones((2, 2))}, TypeError, "mask at 'w' must be a bool array, got float32"),
    ({}, ValueError, "masks and params differ: masks have no leaf at 'w'"),
    ({"w": None}, ValueError, "masks= holds no mask: all of its leaves are None"),
]


@pytest.mark.parametrize(("masks", "error", "message"), BAD_MASKS, ids=[b[2] for b in BAD_MASKS])
def test_masks_that_do_not_fit_are_refused_in_one_line(masks, error, message):
    topology = supjax.make_topology("static", density=0.5)
    tx = supjax.sparsify(optax.sgd(0.1), topology, KEY, masks=masks)
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        tx.init({"w": jnp.ones((2, 2))})


@pytest.mark.parametrize("whole", [False, True], ids=["sparsify", "sup_tickets"])
def test_the_state_goes_where_those_of_optax_go(whole):
    plan = supjax.CyclePlan(normal_steps=2, cycle_steps=2, num_cycles=1)
    topology = supjax.make_topology("rigl", density=0.5, update_every=2)
    params = {"w": jax.random.normal(KEY, (4, 4))}
    tx = (
        supjax.sup_tickets(optax.adam(0.1), topology, plan, KEY)
        if whole
        else supjax.sparsify(optax.adam(0.1), topology, KEY)
    )
    state = tx.init(params)
    params = supjax.sparse_params(params, state)
    update = jax.jit(tx.update)
    _, state = update(params, state, params)
    assert np.isfinite(optax.tree.norm(state))
    file = io.BytesIO()
    leaves, structure = jax.tree.flatten(state)
    np.savez(file, *leaves)
    file.seek(0)
    loaded = np.load(file)
    from_arrays = jax.tree.unflatten(structure, [loaded[name] for name in loaded.files])
    from_bytes = serialization.from_bytes(state, serialization.to_bytes(state))
    expected = update(params, state, params)
    for restored in (from_arrays, from_bytes):
        tree_equal(update(params, restored, params), expected)


def test_weights_of_lookahead_are_masked_twice():
    topology = tiny_problem.topology(update_every=3, drop_fraction=0.5)
    inner = optax.lookahead(optax.sgd(0.2), sync_period=2, slow_step_size=0.5)
    tx = supjax.sparsify(inner, topology, KEY)
    params = optax.LookaheadParams.init_synced(tiny_problem.params())
    state = tx.init(params)
    params = supjax.sparse_params(params, state)
    batch = tiny_problem.batch()

    @jax.jit
    def step(params, state):
        grads = jax.grad(tiny_problem.loss_fn)(params.fast, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    first = tiny_problem.loss_fn(params.slow, batch)
    for _ in range(6):
        params, state = step(params, state)
        supjax.check_sparse(params, state)
    ticket = supjax.take_ticket(params, state)
    tree_equal(ticket.params, params.slow)
    assert supjax.count_active(ticket.masks) == tiny_problem.ACTIVE
    assert tiny_problem.loss_fn(ticket.params, batch) < first


def test_a_line_search_stays_sparse():
    topology = tiny_problem.topology(update_every=3, drop_fraction=0.5)
    tx = supjax.sparsify(optax.lbfgs(), topology, KEY)
    params, batch = tiny_problem.params(), tiny_problem.batch()
    state = tx.init(params)
    params = supjax.sparse_params(params, state)

    def value_fn(params):
        return tiny_problem.loss_fn(params, batch)

    @jax.jit
    def step(params, state):
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(5):
        params, state, loss = step(params, state)
        losses.append(loss)
        supjax.check_sparse(params, state)
        assert supjax.count_active(state.topology.masks) == tiny_problem.ACTIVE
    assert losses[2] < 0.9 * losses[0]


def test_labels_by_a_function_keep_the_state_sparse():
    labels = {"sparse": "fast", "scale": "slow", "dense": "slow"}
    inner = optax.multi_transform(
        {"fast": optax.adam(0.05), "slow": optax.sgd(0.1)}, lambda p: {n: labels[n] for n in p}
    )
    topology = tiny_problem.topology(update_every=2, drop_fraction=0.5)
    for params, state, _ in tiny_problem.train(supjax.sparsify(inner, topology, KEY), 4):
        mask = np.asarray(state.topology.masks["sparse"]["kernel"])
        supjax.check_sparse(params, state)
        moments = [x for x in jax.tree.leaves(state.inner) if np.shape(x) == tiny_problem.SHAPE]
        assert len(moments) == 2
        for moment in moments:
            np.testing.assert_array_equal(np.asarray(moment)[~mask], 0)


def test_helpers_see_the_state_inside_nnx_optimizer():
    plan = supjax.CyclePlan(normal_steps=2, cycle_steps=2, num_cycles=1)
    topology = supjax.make_topology("rigl", density=0.25, update_every=2)
    model = nnx.Linear(4, 8, rngs=nnx.Rngs(0))
    tx = supjax.sup_tickets(optax.adam(0.1), topology, plan, KEY)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    nnx.update(model, supjax.sparse_params(nnx.state(model, nnx.Param), optimizer))
    x = jax.random.normal(KEY, (8, 4))

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda m: jnp.mean(m(x) ** 2))(model))

    for _ in range(plan.total_steps):
        step(model, optimizer)
    weights = nnx.state(model, nnx.Param)
    supjax.check_sparse(weights, optimizer)
    for ticket in (
        supjax.take_ticket(weights, optimizer.opt_state),
        supjax.superposed(optimizer.opt_state, weights),
    ):
        assert supjax.count_active(ticket.masks) == 8
        nnx.update(model, ticket.params)
    assert jnp.isfinite(model(x)).all()
