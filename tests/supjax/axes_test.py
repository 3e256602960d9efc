"""What axes mean: stacks and projections of real networks, and what follows for the counts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from supjax import Axes
from supjax.axes import axes_of, default_axes, from_layers, layer_dims, stack_axes, to_layers
from supjax.trees import named_leaves
from tests.helpers.framework_nets import NETWORKS, Stacked, linen_params, shaped

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", NETWORKS)
def test_axes_of_kernels_are_told_by_their_neighbours(name):
    make, sparse, axes = NETWORKS[name]
    found = default_axes(make())
    told = {path: tuple(found[path]) for path in sparse if found[path] != Axes()}
    assert told == axes


def block(axis, layers, width, inner, bias):
    """The shapes of a pre-norm block whose layers are stacked along an axis."""

    def stacked(*shape):
        return (*shape[:axis], layers, *shape[axis:])

    def dense(inputs, outputs):
        own = {"bias": stacked(outputs)} if bias else {}
        return {"kernel": stacked(inputs, outputs), **own}

    scale = {"scale": stacked(width)} | ({"bias": stacked(width)} if bias else {})
    up, down = dense(width, inner), dense(inner, width)
    return shaped(blocks={"norm": scale, "up": up, "down": down}, head={"kernel": (width, 5)})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inner", [8, 12])
@pytest.mark.parametrize("layers", [3, 7])
def test_a_stack_along_second_axes_is_never_taken_for_one_along_first_axes(layers, inner, bias):
    first, second = (stack_axes(block(axis, layers, 8, inner, bias)) for axis in (0, 1))
    assert first == {f"blocks/{name}/kernel": (0,) for name in ("up", "down")} | {
        path: (0,) for path in first if "norm" in path
    }
    assert not any("kernel" in path for path in second)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("axis", "expected"), [(0, {(0,)}), (1, {()})])
def test_attention_scanned_along_second_axes_is_not_taken_for_a_stack(axis, expected, use_bias):
    found = default_axes(linen_params(Stacked(use_bias, axis=axis), jnp.ones((2, 16, 32))))
    told = {axes.stack for path, axes in found.items() if "blocks" in path and "kernel" in path}
    assert told == expected


def test_a_stack_deeper_than_wide_is_told_where_there_is_no_other_reading():
    assert stack_axes(block(0, 9, 8, 12, bias=False))["blocks/up/kernel"] == (0,)
    assert stack_axes(block(0, 9, 8, 8, bias=True))["blocks/up/kernel"] == (0,)
    assert "blocks/up/kernel" not in stack_axes(block(0, 9, 8, 8, bias=False))


def test_a_scanned_network_has_the_densities_of_the_same_blocks_one_by_one():
    scanned, single = (
        linen_params(Stacked(scanned=scanned), jnp.ones((2, 16, 32))) for scanned in (True, False)
    )
    stacked = named_leaves(supjax.erk(scanned, 0.2))
    for path, density in named_leaves(supjax.erk(single, 0.2)).items():
        same = stacked[re.sub(r"^block\d", "blocks", path)]
        assert same == (density if density is None else pytest.approx(density, rel=1e-12))


def test_a_projection_has_the_density_of_its_matrix():
    params = shaped(
        query={"kernel": (32, 4, 8), "bias": (4, 8)}, head={"kernel": (32, 10), "bias": (10,)}
    )
    matrix = shaped(query={"kernel": (32, 32), "bias": (32,)}, head={"kernel": (32, 10)})
    ours, theirs = (supjax.erk(p, 0.2) for p in (params, matrix))
    assert ours["query"]["kernel"] == theirs["query"]["kernel"]
    assert ours["head"]["kernel"] == theirs["head"]["kernel"]


STACK = {
    "up": {"kernel": jax.random.normal(KEY, (3, 6, 8)), "bias": jnp.zeros((3, 8))},
    "head": {"kernel": jax.random.normal(KEY, (8, 5)), "bias": jnp.zeros(5)},
}
BESIDE = lambda path, leaf: Axes(stack=(1,)) if path == "up/kernel" else None  # noqa: E731
METHODS = {
    "rigl": {"drop_fraction": 0.5},
    "set": {"drop_fraction": 0.5},
    "mest": {"drop_fraction": 0.5},
}


def slice_counts(masks, axis):
    """The active weights of every slice of the stack."""
    other = tuple(i for i in range(3) if i != axis)
    return np.asarray(masks["up"]["kernel"]).sum(other).tolist()


@pytest.mark.parametrize(("axes_fn", "axis"), [(None, 0), (BESIDE, 1)])
@pytest.mark.parametrize("distribution", ["erk", "uniform"])
def test_first_masks_hold_their_count_in_every_slice(axes_fn, axis, distribution):
    masks = supjax.init_masks(KEY, STACK, 0.3, distribution, axes_fn=axes_fn)
    counts = slice_counts(masks, axis)
    assert max(counts) - min(counts) <= 1
    assert supjax.count_active(masks) == round(0.3 * (3 * 6 * 8 + 40))


@pytest.mark.parametrize(("axes_fn", "axis"), [(None, 0), (BESIDE, 1)])
@pytest.mark.parametrize("name", METHODS)
def test_an_update_conserves_the_count_of_every_slice(name, axes_fn, axis):
    topology = supjax.make_topology(name, density=0.3, axes_fn=axes_fn, **METHODS[name])
    state = topology.init(KEY, STACK)
    before = slice_counts(state.masks, axis)
    params = supjax.apply_masks(STACK, state.masks)
    after = jax.jit(topology.update)(jax.random.key(2), STACK, state, params, 0).masks
    assert slice_counts(after, axis) == before
    assert (after["up"]["kernel"] != state.masks["up"]["kernel"]).any()


def test_an_update_of_a_stack_is_that_of_its_layers():
    topology = supjax.make_topology("rigl", density=0.3, drop_fraction=0.5)
    state = topology.init(KEY, STACK)
    params = supjax.apply_masks(STACK, state.masks)
    grads = jax.tree.map(lambda w: jax.random.normal(jax.random.key(1), w.shape), STACK)
    together = topology.update(KEY, grads, state, params, 0).masks["up"]["kernel"]
    for i in range(3):
        mask, weight, grad = (t["up"]["kernel"][i] for t in (state.masks, params, grads))
        alone = supjax.prune_and_grow(mask, jnp.abs(weight), jnp.abs(grad), 0.5)
        np.testing.assert_array_equal(together[i], alone)


@pytest.mark.parametrize("name", ["snfs", "dsr", "granet"])
def test_methods_that_move_weights_between_layers_keep_the_total(name):
    options = {"ramp_end": 10} if name == "granet" else {}
    topology = supjax.make_topology(name, density=0.3, drop_fraction=0.5, **options)
    state = topology.init(KEY, STACK)
    params = supjax.apply_masks(STACK, state.masks)
    if topology.observe is not None:
        state = topology.observe(STACK, state)
    after = topology.update(KEY, STACK, state, params, 1000).masks
    assert supjax.count_active(after) == round(0.3 * (3 * 6 * 8 + 40))


def test_a_method_without_a_grow_rule_explores_slice_by_slice():
    static = supjax.make_topology("static", density=0.3, axes_fn=BESIDE)
    topology = supjax.topologies.exploring(static)
    state = topology.init(KEY, STACK)
    params = supjax.apply_masks(STACK, state.masks)
    after = topology.update(KEY, STACK, state, params, 0, drop_fraction=0.5).masks
    assert slice_counts(after, 1) == slice_counts(state.masks, 1)
    assert (after["up"]["kernel"] != state.masks["up"]["kernel"]).any()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ((0,), TypeError, "axes_fn must return supjax.Axes or None, got (0,) at 'w'"),
        (Axes(stack=(3,)), ValueError, "axes must exist"),
        (Axes(stack=(0,), inputs=(-3,)), ValueError, "at 'w' of shape (2, 3, 4)"),
        (Axes(stack=(0, 1, 2)), ValueError, "not all be stack axes"),
    ],
)
def test_axes_that_cannot_be_are_refused_in_one_line(given, error, words):
    with pytest.raises(error, match=re.escape(words)) as raised:
        axes_of(shaped(w=(2, 3, 4)), lambda path, leaf: given)
    assert "\n" not in str(raised.value)


def test_axes_fn_is_asked_by_path_and_may_leave_the_answer_to_the_default():
    params = shaped(
        up={"kernel": (3, 4, 8), "bias": (3, 8)}, experts={"kernel": (4, 5, 8), "bias": (8,)}
    )
    answer = lambda path, leaf: Axes(stack=(-3,)) if "experts" in path else None  # noqa: E731
    assert stack_axes(params)["up/kernel"] == (0,)
    found = stack_axes(params, lambda p, x: answer(p, x) if x.ndim == 3 else None)
    assert found == {"up/kernel": (0,), "experts/kernel": (0,)}


@pytest.mark.parametrize(
    ("axes", "dims"),
    [
        (Axes(), (3, 32, 4, 8)),
        (Axes(stack=(0,)), (32, 4, 8)),
        (Axes((0,), (1,), (2, 3)), (32, 32)),
        (Axes(inputs=(0, 1), outputs=(2,)), (96, 4, 8)),
        (Axes(stack=(3, 0)), (32, 4)),
    ],
)
def test_dimensions_of_one_layer(axes, dims):
    assert layer_dims((3, 32, 4, 8), axes) == dims


@pytest.mark.parametrize("stack", [(), (0,), (1,), (2, 0), (0, 1)])
def test_layers_go_there_and_back(stack):
    leaf = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    layers = to_layers(leaf, stack)
    assert layers.ndim == 1 + leaf.ndim - len(stack)
    np.testing.assert_array_equal(from_layers(layers, leaf.shape, stack), leaf)


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_explorations_of_methods_that_score_at_init_keep_the_count_of_every_slice(name):
    topology = supjax.make_topology(name, density=0.3, axes_fn=BESIDE)
    total = lambda params: sum(jnp.sum(jnp.abs(w) ** 3) for w in jax.tree.leaves(params))  # noqa: E731
    plan = supjax.CyclePlan(normal_steps=1, cycle_steps=2, num_cycles=1)
    state = topology.init(KEY, STACK, loss_fn=total, output_fn=total)
    params = supjax.apply_masks(STACK, state.masks)
    cycles = supjax.with_cycles(topology, plan)
    grads = jax.tree.map(lambda w: 1 / (0.1 + jnp.abs(w)), STACK)
    after = cycles.update(KEY, grads, state, params, 1).masks
    assert slice_counts(after, 1) == slice_counts(state.masks, 1)
    assert (after["up"]["kernel"] != state.masks["up"]["kernel"]).any()


@pytest.mark.parametrize("rule", ["cia", "caa", "cima"])
@pytest.mark.parametrize(("axes_fn", "axis"), [(None, 0), (BESIDE, 1)])
def test_superposition_by_layers_keeps_the_count_of_every_slice(rule, axes_fn, axis):
    tickets = []
    for key in jax.random.split(KEY, 3):
        masks = supjax.init_masks(key, STACK, 0.3, axes_fn=axes_fn)
        weights = jax.tree.map(
            lambda w, key=key: jnp.abs(jax.random.normal(key, w.shape)) + 0.1, STACK
        )
        # One slice has larger weights than the others: a common threshold would take all of it.
        large = jnp.where(jnp.arange(STACK["up"]["kernel"].shape[axis]) == 0, 10.0, 1.0)
        shape = [1, 1, 1]
        shape[axis] = -1
        weights["up"]["kernel"] = weights["up"]["kernel"] * large.reshape(shape)
        tickets.append(supjax.Ticket(supjax.apply_masks(weights, masks), masks))
    counts = [slice_counts(ticket.masks, axis) for ticket in tickets]
    assert counts[0] == counts[1] == counts[2]
    result = supjax.superpose(tickets, average=rule, scope="layer", axes_fn=axes_fn)
    assert slice_counts(result.masks, axis) == counts[0]
    own = supjax.make_superposition(rule, scope="layer", axes_fn=axes_fn)
    state = own.init(tickets[0])
    for ticket in tickets[1:]:
        state = jax.jit(own.fold)(state, ticket)
    assert slice_counts(own.result(state).masks, axis) == counts[0]
    common = supjax.superpose(tickets, average=rule, scope="global")
    assert slice_counts(common.masks, axis) != counts[0]
