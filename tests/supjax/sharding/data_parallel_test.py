"""The backends of `data_parallel`: equal bits, and one device's network up to the mean's order."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import supjax
from supjax.parallel import BACKENDS
from supjax.topologies import METHODS
from tests.helpers import sharded
from tests.helpers.collectives import traffic
from tests.helpers.registry import build

COUNT = jax.device_count()
TX = optax.sgd(0.2, momentum=0.9)
X = jnp.asarray(np.random.default_rng(4).normal(size=(4 * COUNT, 8)), jnp.float32)
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def loss_fn(params, batch_stats, batch, key):
    del key
    return jnp.mean((jnp.tanh(batch @ params["w"]) - batch) ** 2), (batch_stats, {})


def squares(params):
    return jnp.sum(params["w"] ** 4)


def begin(method):
    params = {"w": jnp.asarray(np.random.default_rng(5).normal(size=(8, 8)), jnp.float32)}
    given = {"loss_fn": squares, "output_fn": squares}
    return supjax.create_train_state(jax.random.key(0), params, TX, method, **given)


def two_steps(method, axis_name):
    """Return `(state, batch) -> state` of a train step and a topology step."""
    train = supjax.make_train_step(loss_fn, TX, method, axis_name=axis_name)
    explore = supjax.make_topology_step(loss_fn, TX, method, axis_name=axis_name)

    def both(state, batch):
        return explore(train(state, batch)[0], batch, 0.4)[0]

    return both


def assert_equal(first, second):
    first, second = jax.device_get((first, second))
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


def numbers(state):
    return state._replace(rng=jax.random.key_data(state.rng))


@pytest.mark.parametrize("name", METHODS)
def test_devices_train_the_network_of_one(name):
    method = build(name)
    state, share = begin(method), supjax.split_batch(X, COUNT)
    by_hand = two_steps(method, None)
    # What carries numbers of its own has loops, which outside of a program compile at every call.
    alone = (jax.jit(by_hand) if jax.tree.leaves(state.topology.extra) else by_hand)(state, X)
    step = two_steps(method, "batch")
    together = supjax.data_parallel(step, backend="shard_map")(state, share)
    assert_equal(together.topology.masks, alone.topology.masks)
    assert_equal(together.topology.ever_active, alone.topology.ever_active)
    for own, other in ((together.params, alone.params), (together.opt_state, alone.opt_state)):
        for ours, theirs in zip(jax.tree.leaves(own), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["rigl", "set"])
def test_both_backends_give_the_same_bits(name):
    method = build(name)
    state, share, step = begin(method), supjax.split_batch(X, COUNT), two_steps(method, "batch")
    results = [supjax.data_parallel(step, backend=backend)(state, share) for backend in BACKENDS]
    assert_equal(*map(numbers, results))


@every_backend
def test_the_gradient_is_the_mean_over_devices(backend):
    """With the default checks of `shard_map` the same step trains with the sum of the means."""

    def gradient(params, batch):
        return jax.lax.pmean(jax.grad(lambda p: jnp.mean(batch @ p))(params), "batch")

    params, share = jnp.ones(8), supjax.split_batch(X, COUNT)
    expected = np.asarray(X).mean(0)
    ours = supjax.data_parallel(gradient, backend=backend)(params, share)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    mesh = sharded.mesh((COUNT,), jax.sharding.AxisType.Auto)
    checked = jax.shard_map(
        lambda params, batch: jax.lax.pmean(
            jax.grad(lambda p: jnp.mean(batch @ p))(params), "data"
        ),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
    )
    np.testing.assert_allclose(jax.jit(checked)(params, X), COUNT * expected, rtol=1e-5, atol=1e-5)


@every_backend
def test_what_differs_between_devices_is_silently_the_first_ones(backend):
    step = supjax.data_parallel(lambda state, x: state + x.sum(), backend=backend)
    result = jax.device_get(step(jnp.zeros(()), jnp.arange(float(COUNT)).reshape(COUNT, 1) + 1))
    assert result == 1.0


@every_backend
def test_arguments_are_shared_split_or_both_in_parts(backend):
    def step(state, data):
        place = jax.lax.axis_index("batch")
        return state + jax.lax.psum(data["all"][place] * data["own"], "batch")

    data = {"all": jnp.arange(float(COUNT)), "own": jnp.ones(COUNT)}
    axes = (None, {"all": None, "own": 0})
    parallel = supjax.data_parallel(step, in_axes=axes, backend=backend)
    assert jax.device_get(parallel(jnp.float32(1), data)) == 1 + sum(range(COUNT))
    one = supjax.data_parallel(
        lambda state: jax.lax.psum(state, "batch"),
        in_axes=(None,),
        devices=jax.devices()[1:3],
        backend=backend,
    )
    result = one(jnp.float32(3))
    assert jax.device_get(result) == 6
    assert result.devices() == set(jax.devices()[1:3])


@every_backend
def test_states_are_given_up_and_arrays_of_another_device_are_moved(backend):
    step = supjax.data_parallel(
        lambda state, x: jax.tree.map(lambda s: s + 1, state), donate_argnums=0, backend=backend
    )
    there = jax.device_put({"w": jnp.zeros((4, 4))}, jax.devices()[1])
    state = step(there, jnp.zeros(COUNT))
    again = step(state, jnp.zeros(COUNT))
    assert state["w"].is_deleted()
    assert jax.device_get(again["w"])[0, 0] == 2.0


@every_backend
def test_a_train_step_sends_what_the_dense_one_sends(backend):
    sent = []
    for name in ("dense", "rigl", "snfs"):
        method = build(name)
        state, share = numbers(begin(method)), supjax.split_batch(X, COUNT)
        step = supjax.make_train_step(loss_fn, TX, method, axis_name="batch")

        def keyed(state, batch, step=step):
            typed = state._replace(rng=jax.random.wrap_key_data(state.rng))
            return numbers(step(typed, batch)[0])

        parallel = jax.jit(supjax.data_parallel(keyed, backend=backend))
        sent.append(traffic(parallel.lower(state, share).compile().as_text()))
    assert sent[0].always
    assert sent == [sent[0]] * 3


def test_backends_and_axes_are_checked(monkeypatch):
    with pytest.raises(ValueError, match=r"^backend must be one of .*'shard_map'\], got 'jit'$"):
        supjax.data_parallel(lambda s, x: s, backend="jit")
    with pytest.raises(ValueError, match="in_axes may hold None and 0, got 1"):
        supjax.data_parallel(lambda s, x: s, in_axes=(None, 1))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="backend must be 'pmap' in 2 processes"):
        supjax.data_parallel(lambda s, x: s, backend="shard_map")
