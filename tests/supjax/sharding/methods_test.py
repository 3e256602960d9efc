"""Every method on sharded weights: first masks and updates are those of one device, bit for bit."""

import contextlib
import functools
import inspect

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from supjax.topologies import METHODS
from tests.helpers import sharded
from tests.helpers.registry import build

SHAPE = (8, 16)  # of both kernels, so that methods share what is compiled for one
SPECS = {f"{name}/kernel": PartitionSpec("data", "model") for name in ("up", "down")}


@functools.cache
def weights():
    rng = np.random.default_rng(1)
    kernels = {name: {"kernel": rng.normal(size=SHAPE)} for name in ("up", "down")}
    return sharded.floats(kernels | {"norm": {"scale": np.ones(16)}})


def gradient():
    """Some gradient without ties that no device has to be asked for."""
    return jax.tree.map(lambda w: w * 0.5 - 0.1 / (1 + w * w), weights())


def squares(params):
    return sum((leaf**4).sum() for leaf in jax.tree.leaves(params))


def walk(name, place):
    """Return the state at the start and after two updates."""
    rounds = {"rounds": 2} if "rounds" in inspect.signature(METHODS[name]).parameters else {}
    method, params, grads = build(name, **rounds), place(weights()), place(gradient())
    key = jax.random.key(2)
    state = method.init(key, params, loss_fn=squares, output_fn=squares)
    states = [state]
    # What carries numbers of its own has loops, which outside of a program compile at every call.
    update = jax.jit(method.update) if jax.tree.leaves(state.extra) else method.update
    for step in (99, 199):
        state = update(key, grads, state, params, step, drop_fraction=0.3)
        if method.observe is not None:
            state = method.observe(grads, state)
        states.append(state)
    return states


@functools.cache
def alone(name):
    return jax.device_get(walk(name, lambda tree: tree))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", METHODS)
def test_sharded_weights_have_the_masks_of_one_device(name, kind):
    layout = sharded.Layout(sharded.mesh((jax.device_count() // 2, 2), kind), SPECS)
    with jax.set_mesh(layout.mesh) if kind == AxisType.Explicit else contextlib.nullcontext():
        states = walk(name, layout.place)
    for ours, theirs in zip(jax.device_get(states), alone(name), strict=True):
        for own, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(own, other, strict=True)
