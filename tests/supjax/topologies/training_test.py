"""Every method in training steps: masked weights, one compilation, one device equal to four.

One device runs the topology step operation by operation, four devices run it compiled: they are
compared with each other, and most methods are spared a second compilation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import supjax
from supjax.topologies import METHODS
from tests.helpers.registry import build

DEVICES, STEPS, TOPOLOGY_STEPS = 4, 6, {2: 0.3, 4: 0.5}
TX = optax.sgd(optax.linear_schedule(0.3, 0.1, STEPS), momentum=0.9)


class Net(nn.Module):
    """A convolution, batch norm over all devices, and a classifier."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), padding="VALID", name="conv")(x)
        x = nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name, name="norm")(x)
        return nn.Dense(3, name="head")(nn.relu(x).reshape(x.shape[0], -1))


def images(seed):
    rng = np.random.RandomState(seed)
    x = rng.standard_normal((8, 4, 4, 2)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(rng.randint(0, 3, 8))}


def loss_of(axis_name):
    model = Net(axis_name)

    def loss_fn(params, batch_stats, batch, key):
        del key
        logits, new = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["x"],
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return jnp.mean(losses), (new["batch_stats"], {})

    return loss_fn


VARIABLES = Net().init(jax.random.key(0), images(0)["x"], train=False)
TRACES = []


@functools.cache
def method(name):
    """The method; its update notes every time that it is traced."""
    topology = build(name)

    def update(key, *args, **kwargs):
        if isinstance(key, jax.core.Tracer):
            TRACES.append(name)
        return topology.update(key, *args, **kwargs)

    return topology._replace(update=update)


def begin(name):
    first, stats = images(0), VARIABLES["batch_stats"]
    return supjax.create_train_state(
        jax.random.key(1),
        VARIABLES["params"],
        TX,
        method(name),
        batch_stats=stats,
        loss_fn=lambda params: loss_of(None)(params, stats, first, None)[0],
        output_fn=lambda params: Net().apply(
            {"params": params, "batch_stats": stats}, jnp.ones((1, 4, 4, 2)), train=False
        ),
    )


@functools.cache
def train_step(observe, devices):
    """Train steps differ between methods in `observe` alone; most methods share this one."""
    topology = build("dense")._replace(observe=observe)
    if devices == 1:
        return jax.jit(supjax.make_train_step(loss_of(None), TX, topology))
    step = supjax.make_train_step(loss_of("batch"), TX, topology, axis_name="batch")
    return supjax.data_parallel(step)


def topology_step(name, devices):
    if devices == 1:
        return supjax.make_topology_step(loss_of(None), TX, method(name))
    step = supjax.make_topology_step(loss_of("batch"), TX, method(name), axis_name="batch")

    def gathered(state, batch, drop_fraction):
        state, metrics = step(state, batch, drop_fraction)
        everywhere = jax.lax.all_gather((state.params, state.topology, state.opt_state), "batch")
        return state, {**metrics, "everywhere": everywhere}

    return supjax.data_parallel(gathered, in_axes=(None, 0, None))


@functools.cache
def trained(name, devices):
    """The states before and after every step, the last metrics, and how often update was traced."""
    train = train_step(method(name).observe, devices)
    explore = topology_step(name, devices)
    traces = len(TRACES)
    states, last = [begin(name)], {}
    for index in range(STEPS):
        batch = images(index)
        if devices > 1:
            batch = supjax.split_batch(batch, devices)
        if index in TOPOLOGY_STEPS:
            state, last = explore(states[-1], batch, TOPOLOGY_STEPS[index])
        else:
            state, _ = train(states[-1], batch)
        states.append(state)
    return jax.device_get(states), jax.device_get(last), len(TRACES) - traces


every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_four_devices_train_the_network_of_one(name):
    one, four = trained(name, 1)[0], trained(name, DEVICES)[0]
    for alone, together in zip(one, four, strict=True):
        jax.tree.map(np.testing.assert_array_equal, alone.topology.masks, together.topology.masks)
        for field in ("params", "batch_stats", "opt_state"):
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
                getattr(alone, field),
                getattr(together, field),
            )


@every_method
def test_every_device_holds_the_same_state(name):
    _, metrics, _ = trained(name, DEVICES)
    for leaf in jax.tree.leaves(metrics["everywhere"]):
        assert leaf.shape[0] == DEVICES
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))


@every_method
def test_new_steps_and_fractions_compile_nothing_anew(name):
    assert trained(name, DEVICES)[2] == 1


@every_method
def test_weights_and_momentum_are_masked_after_every_step(name):
    for state in trained(name, 1)[0]:
        masks = state.topology.masks
        momentum = state.opt_state[0].trace
        for tree in (state.params, momentum):
            jax.tree.map(np.testing.assert_array_equal, supjax.apply_masks(tree, masks), tree)


@every_method
def test_the_optimizer_counts_every_step(name):
    states = trained(name, 1)[0]
    assert [int(state.step) for state in states] == list(range(STEPS + 1))
    assert [int(state.opt_state[1].count) for state in states] == list(range(STEPS + 1))


@every_method
def test_training_moves_the_weights_that_are_present(name):
    first, last = trained(name, 1)[0][0], trained(name, 1)[0][-1]
    for before, after, mask in zip(
        *map(jax.tree.leaves, (first.params, last.params)),
        jax.tree.leaves(last.topology.masks, is_leaf=lambda m: m is None),
        strict=True,
    ):
        moved = before != after
        assert moved.any() if mask is None else moved[mask].any()


def primitives(jaxpr):
    """The names of all primitives of a program and of the programs inside it."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                names |= primitives(inner)
    return names


SELECTION = {"while", "scan", "sort", "top_k", "cumsum", "approx_top_k", "argmax", "pure_callback"}


@every_method
def test_a_train_step_holds_no_selection(name):
    state, batch = begin(name), images(0)
    step = supjax.make_train_step(loss_of(None), TX, method(name))
    assert not primitives(jax.make_jaxpr(step)(state, batch).jaxpr) & SELECTION


def test_a_topology_step_holds_selection_but_no_sort():
    step = supjax.make_topology_step(loss_of(None), TX, method("rigl"))
    found = primitives(jax.make_jaxpr(step)(begin("rigl"), images(0), 0.3).jaxpr)
    assert found & SELECTION
    assert not found & {"sort", "top_k", "pure_callback"}
