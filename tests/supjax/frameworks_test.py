"""One walk through the whole method for every framework: the closing table as a test.

Stages: init, updates, cycles, take_ticket, superpose, batch norm, files.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import supjax
from supjax.trees import named_leaves
from tests.helpers.frameworks import CLASSES, HIDDEN, INPUTS, NETWORKS, NnxNet

KEY = jax.random.key(1)
X = jax.random.normal(jax.random.key(2), (24, INPUTS))
LABELS = jnp.argmax(X[:, :CLASSES], axis=1)
PLAN = supjax.CyclePlan(normal_steps=5, cycle_steps=2, num_cycles=2)
DENSITY = 0.25
ACTIVE = round(DENSITY * HIDDEN * (INPUTS + CLASSES))
NORMAL_UPDATES, EXPLORATIONS = [1, 3], [5, 7]
TAKEN = [4, 6, 8]


def transformation():
    topology = supjax.make_topology("rigl", density=DENSITY, update_every=2, drop_fraction=0.5)
    return supjax.sup_tickets(optax.adam(0.05), topology, PLAN, KEY, exploration=0.5)


def loss_of(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def functional(network):
    """Yield `(params, opt_state, stats, loss)` at the start and after every step."""
    tx = transformation()
    params, stats = network.params, network.stats
    opt_state = tx.init(params)
    params = supjax.sparse_params(params, opt_state)

    @jax.jit
    def step(params, opt_state, stats):
        def loss_fn(params):
            logits, new = network.apply_fn({"params": params, "batch_stats": stats}, X)
            return loss_of(logits), new["batch_stats"]

        (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, new, loss

    yield params, opt_state, stats, jnp.inf
    for _ in range(PLAN.total_steps):
        params, opt_state, stats, loss = step(params, opt_state, stats)
        yield params, opt_state, stats, loss
    assert step._cache_size() == 1


def nnx_optimizer(network):
    """The same around a model and its `nnx.Optimizer`, which change in place."""
    model = NnxNet(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, transformation(), wrt=nnx.Param)
    nnx.update(model, supjax.sparse_params(nnx.state(model, nnx.Param), optimizer))

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: loss_of(model(X)))(model)
        optimizer.update(model, grads)
        return loss

    def now():
        return nnx.state(model, nnx.Param), optimizer, nnx.state(model, nnx.BatchStat)

    yield *now(), jnp.inf
    for _ in range(PLAN.total_steps):
        loss = step(model, optimizer)
        yield *now(), loss


WALKS = {name: (make, functional) for name, make in NETWORKS.items()}
WALKS["nnx.Optimizer"] = (NETWORKS["nnx split"], nnx_optimizer)


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("name", WALKS)
def test_the_whole_method_in(name, tmp_path):
    make, walk = WALKS[name]
    network = make()
    tickets, moved = check_training(walk(network), network)
    assert moved == [*NORMAL_UPDATES, *EXPLORATIONS]
    *members, result = tickets
    check_superposition(members, result)
    check_batch_norm(network, result)
    check_files(tmp_path / "ticket.npz", result, network)


def check_training(steps, network):
    """Init, updates, cycles and `take_ticket`; return the tickets, and when masks moved."""
    tickets, moved, losses, before = [], [], [], None
    for index, (params, opt_state, stats, loss) in enumerate(steps, start=-1):
        ticket = supjax.take_ticket(params, opt_state, stats)
        supjax.check_sparse(params, opt_state)
        assert jax.tree.structure(ticket.params) == jax.tree.structure(network.params)
        assert_same(ticket.params, jax.tree.map(jnp.asarray, params))
        assert supjax.count_active(ticket.masks) == ACTIVE
        assert sum(m is not None for m in named_leaves(ticket.masks).values()) == 2
        if before is not None and supjax.iou(before, ticket.masks) < 1:
            moved.append(index)
        if index in TAKEN:
            tickets.append(ticket)
        losses.append(loss)
        before = ticket.masks
    assert losses[-1] < losses[1]
    result = supjax.superposed(opt_state, params)
    return [*tickets, result._replace(batch_stats=stats)], moved


def check_superposition(members, result):
    """The running superposition of the state is that of the tickets that were taken."""
    expected = supjax.superpose(members)
    assert_same(result.masks, expected.masks)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # noqa: E731
    jax.tree.map(close, result.params, expected.params)
    assert jax.tree.structure(result.params) == jax.tree.structure(members[0].params)
    assert supjax.count_active(result.masks) == ACTIVE


def check_batch_norm(network, result):
    """Statistics are the moments of what the superposed network's norm sees."""
    batches = [X[:12], 1 + X[12:]]
    found = supjax.recompute_batch_stats(network.apply_fn, result, batches).batch_stats
    assert jax.tree.structure(found) == jax.tree.structure(result.batch_stats)
    kernel, bias = network.first_layer(result.params)
    hidden = [batch @ kernel + bias[None] for batch in batches]
    numbers = [leaf for leaf in jax.tree.leaves(found) if jnp.shape(leaf) == (HIDDEN,)]
    half = len(numbers) // 2
    assert half > 0
    for leaves, moment in ((numbers[:half], jnp.mean), (numbers[half:], jnp.var)):
        expected = np.mean([moment(h, axis=0) for h in hidden], axis=0)
        for leaf in leaves:
            np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-5)


def check_files(path, result, network):
    """A file brings weights, masks and statistics back on the framework's nodes."""
    supjax.save_ticket(path, result)
    like = supjax.Ticket(network.params, None, network.stats)
    found = supjax.load_ticket(path, like=like)
    assert_same(found, jax.device_get(result))
    assert_same(supjax.load_ticket(path, like=network.params).params, found.params)
