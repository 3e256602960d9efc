"""Train, topology and evaluation steps on a linear model small enough to work out by hand."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import supjax
from supjax import Ticket

W = jnp.asarray([[1.0, 2.0], [3.0, -4.0]])
MASK = jnp.asarray([[True, False], [True, True]])


def loss_fn(params, batch_stats, batch, key):
    """The mean over examples of `x W 1 + b`: its gradient is the mean example, in every column."""
    del key
    outputs = batch["x"] @ params["w"] + params["b"][None]
    stats = jax.tree.map(lambda s: s, batch_stats)
    if stats:
        stats = {"mean": batch["x"].mean(0), "steps": stats["steps"] + 1}
    return outputs.sum(1).mean(), (stats, {"largest": outputs.max()})


def fixed(mask=MASK, **changes):
    """A method whose first mask is given; the bias is dense."""
    masks = {"w": mask, "b": None}
    topology = supjax.make_topology("rigl", density=0.75, drop_fraction=0.4)
    state = supjax.TopologyState(masks, masks)
    return topology._replace(init=lambda key, params, **_: state, **changes)


def start(tx, topology, **options):
    return supjax.create_train_state(
        jax.random.key(0), {"w": W, "b": jnp.zeros(2)}, tx, topology, **options
    )


X = {"x": jnp.asarray([[1.0, 3.0], [3.0, 5.0]])}  # the mean example is (2, 4)


def test_the_state_at_the_start_is_masked():
    state = start(optax.adam(0.1), fixed(), batch_stats={"mean": jnp.zeros(2)})
    assert state.params["w"].tolist() == [[1, 0], [3, -4]]
    assert (state.step.dtype, int(state.step)) == (jnp.int32, 0)
    assert jnp.issubdtype(state.rng.dtype, jax.dtypes.prng_key)
    assert state.ticket == Ticket(state.params, state.topology.masks, state.batch_stats)
    assert start(optax.sgd(0.1), fixed()).batch_stats == {}


def test_a_train_step():
    tx, topology = optax.sgd(0.5, momentum=0.5), fixed()
    traces = []

    def traced_loss(*args):
        traces.append(args)
        return loss_fn(*args)

    train_step = jax.jit(supjax.make_train_step(traced_loss, tx, topology))
    state, metrics = train_step(start(tx, topology), X)
    # w - 0.5 (2, 4) on present weights; outputs were (10, -12) and (18, -20).
    assert state.params["w"].tolist() == [[0, 0], [1, -6]]
    assert state.params["b"].tolist() == [-0.5, -0.5]
    assert state.opt_state[0].trace["w"].tolist() == [[2, 0], [4, 4]]
    assert {name: float(value) for name, value in metrics.items()} == {"loss": -2, "largest": 18}
    assert state.step == 1
    state, _ = train_step(state, X)
    assert state.opt_state[0].trace["w"].tolist() == [[3, 0], [6, 6]]
    assert state.params["w"].tolist() == [[-1.5, 0], [-2, -9]]
    assert len(traces) == 1


def test_a_topology_step():
    tx = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.5, momentum=0.5))
    topology = fixed(jnp.asarray([[True, True], [True, False]]))
    topology_step = jax.jit(supjax.make_topology_step(loss_fn, tx, topology))
    state, metrics = topology_step(start(tx, topology), X, 0.4)
    # g + w/2 is (2.5, 3, 5.5), so the weights become (-0.25, 0.5, 0.25). Two of three are dropped,
    # the outer ones, and two grown where the gradient is 4, in the lower row: one comes back
    # with what it had, one is new.
    assert state.topology.masks["w"].tolist() == [[False, True], [True, True]]
    assert state.params["w"].tolist() == [[0, 0.5], [0.25, 0]]
    assert state.opt_state[1][0].trace["w"].tolist() == [[0, 3], [5.5, 0]]
    assert state.params["b"].tolist() == [-0.5, -0.5]
    assert state.topology.ever_active["w"].all()
    assert metrics["loss"] == 18
    assert state.step == 1


def test_the_method_gets_the_dense_gradient_without_decay_and_the_new_weights():
    seen = []

    def update(key, grads, state, params, step, *, drop_fraction=None):
        seen.append((key, grads, params, step, drop_fraction))
        grown = {"w": ~MASK, "b": None}
        return supjax.TopologyState(grown, state.ever_active)

    tx = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0, momentum=0.5))
    topology = fixed(update=update)
    state = start(tx, topology)._replace(step=jnp.int32(7))
    after, _ = supjax.make_topology_step(loss_fn, tx, topology)(state, X, 0.25)
    ((_, grads, params, step, drop_fraction),) = seen
    assert grads["w"].tolist() == [[2, 2], [4, 4]]
    assert params["w"].tolist() == [[-1.5, 0], [-2.5, -6]]
    assert (step, drop_fraction, after.step) == (7, 0.25, 8)
    # All weights that were present went; the one that is new starts at zero, without momentum.
    assert after.params["w"].tolist() == [[0, 0], [0, 0]]
    assert after.opt_state[1][0].trace["w"].tolist() == [[0, 0], [0, 0]]
    assert after.topology.masks["w"].tolist() == [[False, True], [False, False]]
    assert after.params["b"].tolist() == [-1, -1]


def test_methods_with_a_memory_observe_every_dense_gradient():
    def observe(grads, state):
        return state._replace(extra=state.extra + grads["w"])

    topology = fixed(observe=observe)
    state = start(optax.sgd(0.1), topology)
    state = state._replace(topology=state.topology._replace(extra=jnp.zeros((2, 2))))
    train_step = jax.jit(supjax.make_train_step(loss_fn, optax.sgd(0.1), topology))
    for _ in range(2):
        state, _ = train_step(state, X)
    assert state.topology.extra.tolist() == [[4, 4], [8, 8]]


def keyed_loss(params, batch_stats, batch, key):
    return jnp.sum(params["w"]) * 0, (batch_stats, {"draw": jax.random.uniform(key)})


def test_every_step_draws_its_own_key_and_the_runs_key_stays():
    tx, topology = optax.sgd(0.1), fixed()
    train_step = jax.jit(supjax.make_train_step(keyed_loss, tx, topology))
    first = start(tx, topology)
    state, one = train_step(first, X)
    second, two = train_step(state, X)
    assert one["draw"] != two["draw"]
    assert jax.random.key_data(first.rng).tolist() == jax.random.key_data(second.rng).tolist()
    assert train_step(first, X)[1]["draw"] == one["draw"]
    topology_step = supjax.make_topology_step(keyed_loss, tx, topology)
    assert topology_step(first, X, 0.0)[1]["draw"] == one["draw"]


BATCH = {"x": jnp.arange(16.0).reshape(8, 2)}


def test_four_devices_take_the_step_of_one():
    tx, topology = optax.sgd(1.0), fixed()
    stats = {"mean": jnp.zeros(2), "steps": jnp.int32(5)}
    state = start(tx, topology, batch_stats=stats)
    alone, metrics = jax.jit(supjax.make_train_step(loss_fn, tx, topology))(state, BATCH)
    step = supjax.make_train_step(loss_fn, tx, topology, axis_name="batch")
    split = supjax.split_batch(BATCH, 4)
    together, mean_metrics = jax.device_get(supjax.data_parallel(step)(state, split))
    # A plain sum over devices, or a mean of sums, would be four times the mean example (7, 8).
    assert together.params["w"].tolist() == [[1 - 7, 0], [3 - 8, -4 - 8]]
    for name in ("params", "batch_stats", "opt_state", "topology", "step"):
        jax.tree.map(np.testing.assert_array_equal, getattr(together, name), getattr(alone, name))
    assert together.batch_stats["steps"].dtype == jnp.int32
    assert mean_metrics["loss"] == metrics["loss"]
    assert together.params["w"] @ np.ones(2) @ np.ones(2) == -23.0  # plain numpy from here on


def test_devices_draw_different_keys_for_data_and_the_same_for_masks():
    def update(key, grads, state, params, step, *, drop_fraction=None):
        extra = jax.lax.all_gather(jax.random.uniform(key), "batch")
        return state._replace(extra=extra)

    def loss_fn(params, batch_stats, batch, key):
        draws = jax.lax.all_gather(jax.random.uniform(key), "batch")
        return jnp.sum(params["w"]), (batch_stats, {"draws": draws})

    tx, topology = optax.sgd(0.1), fixed(update=update)
    state = start(tx, topology)
    step = supjax.make_topology_step(loss_fn, tx, topology, axis_name="batch")
    parallel = supjax.data_parallel(step, in_axes=(None, 0, None))
    state, metrics = jax.device_get(parallel(state, supjax.split_batch(BATCH, 4), 0.5))
    assert len(set(metrics["draws"].tolist())) == 4
    assert len(set(state.topology.extra.tolist())) == 1


def test_a_result_that_differs_between_devices_is_silently_the_first_ones():
    # Why steps take an axis name: nothing in JAX warns about this.
    unsynchronised = supjax.data_parallel(lambda state, x: state + x.sum())
    result = jax.device_get(unsynchronised(jnp.zeros(()), jnp.arange(4.0).reshape(4, 1) + 1))
    assert result == 1.0


def test_the_share_of_a_device_by_its_index():
    def step(state, data):
        place = jax.lax.axis_index("batch")
        return state + jax.lax.psum(data[place], "batch")

    parallel = supjax.data_parallel(step, in_axes=(None, None))
    assert jax.device_get(parallel(jnp.float32(1), jnp.arange(4.0))) == 7.0
    two = supjax.data_parallel(step, in_axes=(None, None), devices=jax.devices()[:2])
    assert jax.device_get(two(jnp.float32(1), jnp.arange(4.0))) == 2.0


@pytest.mark.parametrize("in_axes", [(None, 0), (None, None)])
def test_donated_buffers_are_given_up(in_axes):
    step = supjax.data_parallel(
        lambda state, x: jax.tree.map(lambda s: s + 1, state), in_axes=in_axes, donate_argnums=0
    )
    state = step({"w": jnp.zeros((4, 4))}, jnp.zeros(4))
    again = step(state, jnp.zeros(4))
    assert state["w"].is_deleted()
    assert jax.device_get(again["w"])[0, 0] == 2.0


def count_correct(ticket, batch):
    hits = (batch["x"] @ ticket.params["w"]).argmax(1) == batch["y"]
    return {"correct": jnp.sum(hits * batch["weight"]), "examples": jnp.sum(batch["weight"])}


@pytest.mark.parametrize("size", [3, 4, 7])
def test_evaluation_counts_every_example_once(size):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 2)).astype(np.float32), rng.integers(0, 2, 10)
    ticket = Ticket({"w": W}, {"w": MASK})
    alone = jax.jit(supjax.make_eval_step(count_correct))
    together = supjax.data_parallel(
        supjax.make_eval_step(count_correct, axis_name="batch"), in_axes=(None, 0)
    )
    totals = {"correct": 0.0, "examples": 0.0}
    split_totals = dict(totals)
    padded = -(-size // 4) * 4
    for begin in range(0, 10, size):
        part = slice(begin, begin + size)
        real = len(x[part])
        batch = {
            "x": np.pad(x[part], ((0, padded - real), (0, 0))),
            "y": np.pad(y[part], (0, padded - real)),
            "weight": (np.arange(padded) < real).astype(np.float32),
        }
        for name, value in alone(ticket, batch).items():
            totals[name] += float(value)
        for name, value in jax.device_get(together(ticket, supjax.split_batch(batch, 4))).items():
            split_totals[name] += float(value)
    expected = float(np.sum((x @ np.asarray(W)).argmax(1) == y))
    assert totals == split_totals == {"correct": expected, "examples": 10.0}


def test_a_batch_is_split_in_order():
    split = supjax.split_batch({"x": np.arange(12).reshape(6, 2), "y": np.arange(6)}, 3)
    assert split["x"].shape == (3, 2, 2)
    assert split["y"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert supjax.split_batch(np.arange(4), 1).shape == (1, 4)


TX = optax.sgd(0.1)
BAD = [
    (
        lambda: supjax.create_train_state(0, {"w": W}, TX, fixed()),
        TypeError,
        "key must be a typed PRNG key, as jax.random.key(0) makes, got int",
    ),
    (
        lambda: start(optax.sgd, fixed()),
        TypeError,
        "tx must be an optax optimizer with init and update, got function",
    ),
    (
        lambda: start(TX, "rigl"),
        TypeError,
        "topology must be a TopologyTransform, as make_topology makes, got str",
    ),
    (
        lambda: start(TX, supjax.make_topology("synflow", density=0.5)),
        ValueError,
        "synflow scores the network at init: pass output_fn= to its init function",
    ),
    (
        lambda: supjax.make_train_step(loss_fn, None, fixed()),
        TypeError,
        "tx must be an optax optimizer with init and update, got NoneType",
    ),
    (
        lambda: supjax.make_topology_step(loss_fn, TX, supjax.topologies.rigl),
        TypeError,
        "topology must be a TopologyTransform, as make_topology makes, got function",
    ),
    (
        lambda: supjax.split_batch(np.zeros((6, 2)), 4),
        ValueError,
        "batch of 6 does not divide by 4 devices",
    ),
    (
        lambda: supjax.split_batch(np.zeros((6, 2)), 0),
        ValueError,
        "devices must be an integer of at least 1, got 0",
    ),
    (
        lambda: supjax.split_batch({"x": np.float32(1)}, 2),
        ValueError,
        "a batch needs leaves with an axis of examples, got a scalar",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_refusals_are_one_clear_line(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
