"""Sharded tickets: superposing, comparing, saving and growing stacks of layers."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import supjax
from supjax.superposition import SUPERPOSITIONS
from supjax.types import Axes
from tests.helpers import sharded

SPECS = {"w": PartitionSpec("data", "model"), "layers": PartitionSpec("model", None, "data")}
every_kind = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])


def arrays(seed):
    rng = np.random.default_rng(seed)
    return sharded.floats({"w": rng.normal(size=(8, 8)), "layers": rng.normal(size=(4, 6, 8))})


def axes_fn(path, leaf):
    return Axes(stack=(0,)) if path == "layers" else None


def masks(seed, density=0.5):
    kept = {"axes_fn": axes_fn, "filter_fn": lambda path, leaf: True}
    return supjax.init_masks(jax.random.key(seed), arrays(0), density, **kept)


@pytest.fixture
def place(kind):
    """Put trees of the shapes of `arrays` on a mesh of two axes."""
    layout = sharded.Layout(sharded.mesh((jax.device_count() // 2, 2), kind), SPECS)
    with jax.set_mesh(layout.mesh) if kind == AxisType.Explicit else contextlib.nullcontext():
        yield layout.place


def ticket(seed, place=lambda tree: tree):
    kept = masks(seed)
    return supjax.Ticket(place(supjax.apply_masks(arrays(seed), kept)), place(kept))


def assert_equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@every_kind
@pytest.mark.parametrize("average", SUPERPOSITIONS)
def test_sharded_tickets_superpose_to_those_of_one_device(place, average):
    ours = supjax.superpose([ticket(seed, place) for seed in (1, 2, 3)], average=average)
    theirs = supjax.superpose([ticket(seed) for seed in (1, 2, 3)], average=average)
    assert_equal(ours.masks, theirs.masks)
    for own, other in zip(*map(jax.tree.leaves, (ours.params, theirs.params)), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)
    homes = place(arrays(0))
    for name in SPECS:
        for tree in (ours.params, ours.masks):
            assert tree[name].sharding.is_equivalent_to(homes[name].sharding, tree[name].ndim)


@every_kind
def test_sharded_masks_are_counted_compared_and_checked(place):
    first, second = ticket(1, place), ticket(2, place)
    alone = ticket(1), ticket(2)
    assert supjax.count_active(first.masks) == supjax.count_active(alone[0].masks)
    assert supjax.density(first.params) == supjax.density(alone[0].params)
    assert supjax.iou(first, second) == supjax.iou(*alone)


@every_kind
def test_a_sharded_ticket_is_saved_as_that_of_one_device(place, tmp_path):
    for name, saved in (("one", ticket(1)), ("sharded", ticket(1, place))):
        supjax.save_ticket(tmp_path / name, saved)
    one, many = (supjax.load_ticket(tmp_path / name, like=arrays(1)) for name in ("one", "sharded"))
    assert_equal(many, one)
    assert_equal(one.masks, ticket(1).masks)


@every_kind
def test_layers_of_a_sharded_stack_keep_their_counts(place):
    method = supjax.make_topology("rigl", density=0.5, axes_fn=axes_fn, filter_fn=lambda p, w: True)
    update = jax.jit(method.update)

    def moved(place):
        params, grads = place(arrays(1)), place(arrays(7))
        state = method.init(jax.random.key(0), params)
        return update(jax.random.key(0), grads, state, params, 0, drop_fraction=0.5).masks

    assert_equal(moved(place), moved(lambda tree: tree))


@every_kind
def test_given_masks_are_put_beside_the_weights(place):
    params, kept = place(arrays(1)), masks(3)
    state = supjax.make_topology("static", density=0.5).init(jax.random.key(0), params, masks=kept)
    assert_equal(state.masks, kept)
    for name, leaf in params.items():
        assert state.masks[name].sharding.is_equivalent_to(leaf.sharding, leaf.ndim)


def test_weights_of_another_device_have_their_masks_there():
    device = jax.devices()[2]
    params = jax.device_put({"w": jnp.ones((8, 8)), "b": jnp.ones(8)}, device)
    tx = supjax.sparsify(
        optax.sgd(0.1), supjax.make_topology("rigl", density=0.5), jax.random.key(0)
    )
    state = tx.init(params)
    assert state.bits["w"].devices() == state.ever_active["w"].devices() == {device}
