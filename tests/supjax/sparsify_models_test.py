"""The two added lines, in optax loops around linen, nnx and plain models."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import supjax

DENSITY, STEPS, EVERY = 0.4, 7, 3
X = jax.random.normal(jax.random.key(2), (24, 6))
LABELS = jnp.argmax(X[:, :4], axis=1)


def loss_of(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def sparse_adam():
    topology = supjax.make_topology("rigl", density=DENSITY, update_every=EVERY)
    return supjax.sparsify(optax.adam(0.02), topology, jax.random.key(1))


def check(runs, maskable, everything):
    """Check `(params, masks, loss)` after every step: exact counts, exact zeros, less loss."""
    assert len(runs) == STEPS
    before = None
    for index, (params, masks, _) in enumerate(runs):
        assert supjax.count_maskable(masks) == maskable
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == everything
        assert supjax.count_active(masks) == round(DENSITY * maskable)
        masked = supjax.apply_masks(params, masks)
        jax.tree.map(np.testing.assert_array_equal, masked, params)
        if before is not None:
            assert (supjax.iou(before, masks) < 1) == ((index + 1) % EVERY == 0)
        before = masks
    assert runs[-1][2] < runs[0][2]


class LinenNet(nn.Module):
    """Biases, a layer norm and a batch norm around two kernels."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.LayerNorm()(nn.Dense(9)(x)))
        x = nn.BatchNorm(use_running_average=False)(x)
        return nn.Dense(4)(x)


def test_linen():
    model, tx = LinenNet(), sparse_adam()
    variables = model.init(jax.random.key(0), X)
    params, stats = variables["params"], variables["batch_stats"]
    opt_state = tx.init(params)
    params = supjax.sparse_params(params, opt_state)

    @jax.jit
    def step(params, stats, opt_state):
        def loss_fn(params):
            logits, new = model.apply(
                {"params": params, "batch_stats": stats}, X, mutable=["batch_stats"]
            )
            return loss_of(logits), new["batch_stats"]

        (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state2 = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), new, opt_state2, loss

    runs = []
    for _ in range(STEPS):
        params, stats, opt_state, loss = step(params, stats, opt_state)
        runs.append((params, opt_state.topology.masks, loss))
    check(runs, maskable=6 * 9 + 9 * 4, everything=6 * 9 + 9 * 4 + 9 + 4 + 4 * 9)
    assert step._cache_size() == 1


class NnxNet(nnx.Module):
    """A bias, a batch norm and two kernels."""

    def __init__(self, rngs):
        self.first = nnx.Linear(6, 9, rngs=rngs)
        self.norm = nnx.BatchNorm(9, rngs=rngs)
        self.last = nnx.Linear(9, 4, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


NNX_SIZES = {"maskable": 6 * 9 + 9 * 4, "everything": 6 * 9 + 9 * 4 + 3 * 9}


def test_nnx_state():
    tx = sparse_adam()
    graph, params, rest = nnx.split(NnxNet(nnx.Rngs(0)), nnx.Param, ...)
    opt_state = tx.init(params)
    params = supjax.sparse_params(params, opt_state)

    @jax.jit
    def step(params, rest, opt_state):
        def loss_fn(params):
            model = nnx.merge(graph, params, rest, copy=True)
            return loss_of(model(X)), nnx.state(model, nnx.Not(nnx.Param))

        (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state2 = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), new, opt_state2, loss

    runs = []
    for _ in range(STEPS):
        params, rest, opt_state, loss = step(params, rest, opt_state)
        runs.append((params, opt_state.topology.masks, loss))
    check(runs, **NNX_SIZES)


def test_nnx_optimizer():
    model = NnxNet(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, sparse_adam(), wrt=nnx.Param)

    def weights():
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def masks():
        return nnx.to_pure_dict(nnx.as_pure(optimizer.opt_state).topology.masks)

    nnx.update(model, supjax.apply_masks(weights(), masks()))

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: loss_of(model(X)))(model)
        optimizer.update(model, grads)
        return loss

    runs = []
    for _ in range(STEPS):
        loss = step(model, optimizer)
        runs.append((jax.tree.map(jnp.copy, weights()), masks(), loss))
    check(runs, **NNX_SIZES)


@pytest.mark.parametrize("container", [dict, list, tuple])
def test_plain_params(container):
    leaves = {
        "first": 0.3 * jax.random.normal(jax.random.key(0), (6, 9)),
        "bias": jnp.zeros((9,)),
        "last": 0.3 * jax.random.normal(jax.random.key(1), (9, 4)),
    }
    params = leaves if container is dict else container(leaves.values())
    names = list(leaves) if container is dict else range(3)
    tx = sparse_adam()
    opt_state = tx.init(params)
    params = supjax.sparse_params(params, opt_state)

    @jax.jit
    def step(params, opt_state):
        def loss_fn(params):
            first, bias, last = (params[name] for name in names)
            return loss_of(jax.nn.relu(X @ first + bias[None]) @ last)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    runs = []
    for _ in range(STEPS):
        params, opt_state, loss = step(params, opt_state)
        runs.append((params, opt_state.topology.masks, loss))
    assert type(params) is container
    check(runs, maskable=6 * 9 + 9 * 4, everything=6 * 9 + 9 * 4 + 9)


def test_a_whole_equinox_module_whose_activation_is_a_leaf():
    """Its own loop: state of the filtered module, helpers on the module itself."""
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(6, 4, 16, depth=1, key=jax.random.key(0))
    plan = supjax.CyclePlan(normal_steps=1, cycle_steps=2, num_cycles=1)
    topology = supjax.make_topology("rigl", density=DENSITY, update_every=EVERY)
    tx = supjax.sup_tickets(optax.sgd(0.1), topology, plan, jax.random.key(1))
    with pytest.raises(TypeError, match=r"^params must be arrays, got .* at 'activation'$"):
        tx.init(model)
    opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    model = supjax.sparse_params(model, opt_state)

    @eqx.filter_jit
    def step(model, opt_state):
        grads = eqx.filter_grad(lambda m: loss_of(jax.vmap(m)(X)))(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = tx.update(grads, opt_state, params)
        return eqx.apply_updates(model, updates), opt_state

    for _ in range(plan.total_steps):
        model, opt_state = step(model, opt_state)
    supjax.check_sparse(model, opt_state)
    filtered = eqx.filter(model, eqx.is_inexact_array)
    for found in (supjax.take_ticket(model, opt_state), supjax.superposed(opt_state, model)):
        assert jax.tree.structure(found.params) == jax.tree.structure(filtered)
        assert supjax.count_active(found.masks) == round(DENSITY * 160)
        again = eqx.combine(found.params, model)
        assert jax.vmap(again)(X).shape == (24, 4)
