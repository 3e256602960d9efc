"""One contract over the whole registry: a new method is picked up by its registry line."""

import functools
import re
from inspect import signature

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from supjax.allocation import budget
from supjax.prune_grow import active_counts
from supjax.topologies import METHODS, exploring, make_topology
from supjax.trees import is_none
from tests.helpers.registry import DENSITY, RAMPS, build, start_density
from tests.helpers.strategies import Layer

FIXED_START = {"dense", "gmp", "snip", "grasp", "synflow"}
"""Methods whose first masks do not depend on the key."""

FIXED = {"dense", "static", "snip", "grasp", "synflow"}
"""Methods whose masks never move."""

RANDOM_GROWTH = {"set", "set_itop", "mest", "dsr"}

REDISTRIBUTING = {"snfs", "dsr", *RAMPS}
"""Methods that move weights between layers; the others conserve every layer's count."""

LATE = 1000
"""A step after the end of every ramp in use here."""


def weights(seed):
    """Dicts, a list, a tuple and a NamedTuple of kernels, biases and a scalar, one in bfloat16."""
    rng = np.random.RandomState(seed)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    return {
        "block": Layer(
            first={"kernel": draw(4, 5), "bias": draw(5)},
            second=[draw(3, 2, 1, 4).astype(jnp.bfloat16), draw()],
        ),
        "head": (draw(6, 3),),
    }


PARAMS, GRADS = weights(0), weights(1)
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)
SIZE = 20 + 24 + 18


def loss(params):
    terms = jax.tree.map(lambda w: jnp.sum(jnp.sin(2 * w.astype(jnp.float32))), params)
    return sum(jax.tree.leaves(terms))


@functools.cache
def begin(name, seed=0):
    """The method and its state at step 0."""
    topology = build(name)
    key = jax.random.key(seed)
    return topology, topology.init(key, PARAMS, loss_fn=loss, output_fn=loss)


def step_masks(name, state, params, grads=GRADS, *, key, fraction):
    """One update, of a method that has observed the gradient, after the end of its ramp."""
    topology, _ = begin(name)
    if topology.observe is not None:
        state = topology.observe(grads, state)
    return topology.update(jax.random.key(key), grads, state, params, LATE, drop_fraction=fraction)


@functools.cache
def settled(name):
    """The state after one update, and the masked weights."""
    _, state = begin(name)
    params = supjax.apply_masks(PARAMS, state.masks)
    state = step_masks(name, state, params, key=1, fraction=0.5)
    return state, supjax.apply_masks(PARAMS, state.masks)


def move(name, grads=GRADS, params=None, key=2, fraction=0.3):
    """The state after a second update."""
    state, masked = settled(name)
    return step_masks(
        name, state, masked if params is None else params, grads, key=key, fraction=fraction
    )


def same(first, second):
    """Whether two trees are equal to the last bit, in structure, types and values."""
    if jax.tree.structure(first) != jax.tree.structure(second):
        return False
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_init_holds_the_starting_budget_on_kernels_only(name):
    _, state = begin(name)
    assert supjax.count_maskable(state.masks) == SIZE
    assert supjax.count_active(state.masks) == budget(start_density(name), SIZE)
    leaves = zip(
        jax.tree.leaves(PARAMS), jax.tree.leaves(state.masks, is_leaf=is_none), strict=True
    )
    for weight, mask in leaves:
        assert (mask is not None) == (weight.ndim > 1)
        assert mask is None or (mask.shape, mask.dtype) == (weight.shape, bool)
    assert same(state.ever_active, state.masks)


@every_method
def test_state_holds_arrays_only_and_keeps_its_shape(name):
    _, first = begin(name)
    second, _ = settled(name)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(first))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert shapes(first) == shapes(second)


@every_method
def test_counts_are_conserved_and_ramps_end_at_the_exact_budget(name):
    before, after = settled(name)[0], move(name)
    total = SIZE if name == "dense" else budget(DENSITY, SIZE)
    assert supjax.count_active(before.masks) == supjax.count_active(after.masks) == total
    if name not in REDISTRIBUTING:
        starting = active_counts(begin(name)[1].masks)
        assert (active_counts(after.masks) == starting).all()


@every_method
@pytest.mark.parametrize("fraction", [0.01, 0.5, 1.0])
def test_growth_lands_on_free_places_even_without_any_gradient(name, fraction):
    after = move(name, grads=ZEROS, fraction=fraction)
    assert supjax.count_active(after.masks) == supjax.count_active(settled(name)[0].masks)
    dead = move(name, grads=ZEROS, params=ZEROS, fraction=fraction)
    assert supjax.count_active(dead.masks) == supjax.count_active(after.masks)


@every_method
def test_an_update_moves_masks_unless_they_are_fixed(name):
    assert same(begin(name)[1].masks, settled(name)[0].masks) == (name in FIXED)


@every_method
def test_an_exploration_moves_the_masks_of_those_that_grow(name):
    topology, _ = begin(name)
    before, after = settled(name)[0], move(name, fraction=0.5)
    has_room = supjax.density(before.masks) < 1
    assert same(before.masks, after.masks) != (topology.grows and has_room)


@pytest.mark.parametrize("name", sorted(n for n in METHODS if not build(n).grows))
def test_those_that_do_not_grow_explore_by_a_wrapper(name):
    topology, (before, params) = exploring(begin(name)[0]), settled(name)
    assert topology.grows
    moved = topology.update(jax.random.key(2), GRADS, before, params, LATE, drop_fraction=0.5)
    assert not same(before.masks, moved.masks)
    assert (active_counts(moved.masks) == active_counts(before.masks)).all()
    own = topology.update(jax.random.key(2), GRADS, before, params, LATE)
    assert same(own.masks, before.masks)


@every_method
def test_the_density_over_time_is_that_of_the_masks(name):
    interval = {"update_every": 8} if "update_every" in signature(METHODS[name]).parameters else {}
    topology, state = build(name, **interval), begin(name)[1]
    seen = [topology.density_at(0)]
    assert supjax.count_active(state.masks) == budget(seen[0], SIZE)
    for step in filter(topology.due, range(33)):
        params = supjax.apply_masks(PARAMS, state.masks)
        state = topology.update(jax.random.key(step), GRADS, state, params, step)
        seen.append(topology.density_at(step + 1))  # an update at step i follows i + 1 steps
        assert abs(supjax.density(state.masks) - seen[-1]) < 1 / SIZE
    assert len(seen) == (5 if interval and name != "gmp" else 4 if interval else 1)
    assert (min(seen) < max(seen)) == (name in RAMPS)
    traced = jax.vmap(topology.density_at)(jnp.arange(33)) if name in RAMPS else seen[0]
    np.testing.assert_allclose(traced, [topology.density_at(s) for s in range(33)], rtol=1e-6)


@every_method
def test_gradients_of_absent_weights_count_where_a_method_says_so(name):
    topology, _ = begin(name)
    state = settled(name)[0]
    absent = jax.tree.map(
        lambda g, m: g if m is None else jnp.where(m, g, -3 * g[::-1]), GRADS, state.masks
    )
    told = topology.dense_gradient != "never"
    has_room = supjax.density(state.masks) < 1
    assert same(move(name).masks, move(name, grads=absent).masks) != (told and has_room)
    if topology.observe is not None:
        assert topology.dense_gradient == "always"
        seen = [topology.observe(grads, state) for grads in (GRADS, absent)]
        assert not same(*seen)


@every_method
def test_the_facts_of_a_method_are_of_their_types(name):
    topology, _ = begin(name)
    assert isinstance(topology.grows, bool)
    assert topology.dense_gradient in ("never", "updates", "always")
    assert 0 < topology.density_at(LATE) <= 1


@every_method
def test_a_drop_fraction_of_zero_keeps_the_masks(name):
    state, params = settled(name)
    smaller = jax.tree.map(lambda w: w * 1e-3, params)
    for weights_now in (params, smaller, smaller):
        after = step_masks(name, state, weights_now, key=2, fraction=0.0)
        assert same(after.masks, state.masks)
        state = after


@every_method
def test_first_masks_depend_on_the_key_where_they_are_random(name):
    again = build(name).init(jax.random.key(0), PARAMS, loss_fn=loss, output_fn=loss)
    assert same(begin(name)[1], again)
    assert same(begin(name)[1].masks, begin(name, 1)[1].masks) == (name in FIXED_START)


@every_method
def test_updates_depend_on_the_key_where_growth_is_random(name):
    assert same(move(name), move(name))
    assert same(move(name).masks, move(name, key=3).masks) == (name not in RANDOM_GROWTH)


@every_method
def test_what_has_been_active_is_remembered(name):
    states = [begin(name)[1], settled(name)[0], move(name)]
    seen = states[0].masks
    for state in states:
        seen = jax.tree.map(jnp.logical_or, seen, state.masks)
        assert same(state.ever_active, seen)


@every_method
def test_update_steps_and_fractions_work_on_numbers_and_on_traced_steps(name):
    topology = build(name)
    steps = [0, 3, 99, 999, 1999, 5999]
    due = [bool(topology.due(step)) for step in steps]
    assert jax.vmap(topology.due)(jnp.array(steps)).tolist() == due
    assert not any(due) or name not in FIXED
    fractions = [float(topology.drop_fraction(step)) for step in steps]
    assert all(0 <= fraction <= 1 for fraction in fractions)
    traced = jax.lax.map(lambda step: jnp.float32(topology.drop_fraction(step)), jnp.array(steps))
    np.testing.assert_allclose(traced, fractions, atol=1e-6)


@every_method
def test_an_update_of_its_own_uses_the_own_drop_fraction(name):
    topology, _ = begin(name)
    state, params = settled(name)
    key = jax.random.key(2)
    own = topology.update(key, GRADS, state, params, 10)
    given = topology.update(key, GRADS, state, params, 10, drop_fraction=topology.drop_fraction(10))
    assert same(own, given)


@every_method
def test_init_and_update_may_be_traced(name):
    topology, state = begin(name)
    init = functools.partial(topology.init, loss_fn=loss, output_fn=loss)
    assert shapes(jax.eval_shape(init, jax.random.key(0), PARAMS)) == shapes(state)
    arguments = (jax.random.key(1), GRADS, state, PARAMS, jnp.int32(3))
    moved = jax.eval_shape(topology.update, *arguments, drop_fraction=jnp.float32(0.3))
    assert shapes(moved) == shapes(state)


def test_a_compiled_update_is_the_update():
    topology, _ = begin("dsr")
    state, params = settled("dsr")
    compiled = jax.jit(topology.update)(
        jax.random.key(2), GRADS, state, params, LATE, drop_fraction=0.3
    )
    assert same(compiled, move("dsr"))


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"dense"}))
def test_a_density_outside_its_range_is_refused(name):
    for value in (0, 1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"density must be in \(0, 1\], got "):
            build(name, density=value)


def test_the_registry_names_what_it_takes():
    known = ", ".join(sorted(METHODS))
    cases = [
        (lambda: make_topology("rgl"), ValueError, f"unknown method 'rgl'; known: {known}"),
        (
            lambda: make_topology("static", density=0.1, sparsity=0.9),
            TypeError,
            "static takes no argument 'sparsity'; "
            "it takes: density, distribution, filter_fn, axes_fn",
        ),
        (lambda: make_topology("static"), TypeError, "static needs the argument 'density'"),
        (lambda: make_topology("gmp", density=0.1), TypeError, "gmp needs the argument 'ramp_end'"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            call()
    assert {*supjax.topologies.__all__} >= {"METHODS", "make_topology", *METHODS}
