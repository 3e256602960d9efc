"""Layer densities against published tables, and random masks that hold them exactly."""

import inspect
import math
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import supjax
from supjax.allocation import budget
from supjax.densities import layer_counts
from supjax.trees import is_none
from tests.helpers.strategies import params_trees


def shaped(shapes):
    """A tree of weights that takes no memory."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def imagenet_resnet50():
    shapes, inputs = {"stem": (7, 7, 3, 64)}, 64
    for stage, (width, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
        for block in range(blocks):
            name = f"{stage}.{block}"
            shapes[f"{name}.reduce"] = (1, 1, inputs, width)
            shapes[f"{name}.conv"] = (3, 3, width, width)
            shapes[f"{name}.expand"] = (1, 1, width, 4 * width)
            if block == 0:
                shapes[f"{name}.shortcut"] = (1, 1, inputs, 4 * width)
            inputs = 4 * width
    return shaped({**shapes, "head": (2048, 1000)})


def cifar_resnet(blocks):
    shapes, inputs = {"stem": (3, 3, 3, 16)}, 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range(blocks):
            shapes[f"{stage}.{block}.a"] = (3, 3, inputs, width)
            shapes[f"{stage}.{block}.b"] = (3, 3, width, width)
            if inputs != width:
                shapes[f"{stage}.{block}.shortcut"] = (1, 1, inputs, width)
            inputs = width
    return shaped({**shapes, "head": (64, 10)})


RESNET50, RESNET20, RESNET32 = imagenet_resnet50(), cifar_resnet(3), cifar_resnet(5)
MLP = shaped({"a": (784, 300), "b": (300, 100), "c": (100, 10)})
LENET = shaped(
    {"a": (5, 5, 1, 6), "b": (5, 5, 6, 16), "c": (400, 120), "d": (120, 84), "e": (84, 10)}
)
SMALL = shaped({"a": (2, 4), "b": (3, 6), "c": (2, 4, 6)})
STAGE1 = [f"0.{block}.{name}" for block in range(3) for name in ("reduce", "expand")]


def everything(path, leaf):
    return True


@pytest.mark.parametrize(
    ("params", "density", "expected"),
    [
        # Scores 6/8, 9/18, 12/48: eps = 37/27 would lift a above 1, so a is dense, eps = 29/21.
        (SMALL, 0.5, {"a": 1, "b": 0.690476, "c": 0.345238}),
        # eps = 14.8 / 27 for all three; a count of zeros rounded down would give 0.444444 for a.
        (SMALL, 0.2, {"a": 0.411111, "b": 0.274074, "c": 0.137037}),
        (MLP, 0.1, {"a": 0.079568, "b": 0.230189, "c": 1}),
        (MLP, 0.05, {"a": 0.038484, "b": 0.111334, "c": 0.918507}),
        (LENET, 0.1, {"a": 0.803529, "b": 0.094533, "c": 0.076808, "d": 0.143487, "e": 0.793401}),
    ],
)
def test_erk_of_small_networks(params, density, expected):
    densities = supjax.erk(params, density, everything)
    assert {name: round(densities[name], 6) for name in expected} == expected


@pytest.mark.parametrize(
    ("params", "density", "expected"),
    [
        (RESNET50, 0.2, {"stem": 0.857195, "head": 0.148176, "3.1.conv": 0.043466}),
        (RESNET50, 0.1, {"stem": 0.420038, "head": 0.072608, "3.1.conv": 0.021299}),
        (RESNET50, 0.05, {"stem": 0.209837, "head": 0.036273, "3.1.conv": 0.010640}),
        (RESNET20, 0.2, {"2.1.a": 0.130890, "head": 1}),
        (RESNET20, 0.1, {"2.1.a": 0.061771, "head": 1}),
        (RESNET20, 0.05, {"2.1.a": 0.029848, "head": 0.949442}),
        (RESNET20, 0.02, {"2.1.a": 0.011962, "head": 0.380491}),
        (RESNET32, 0.2, {"2.1.a": 0.136799}),
        (RESNET32, 0.1, {"2.1.a": 0.066043}),
        (RESNET32, 0.05, {"2.1.a": 0.032281}),
        (RESNET32, 0.02, {"2.1.a": 0.012926}),
    ],
)
def test_erk_of_residual_networks(params, density, expected):
    """The table rounds zeros down layer by layer (15 to 27 weights too many); ours adds up."""
    densities = supjax.erk(params, density)
    for name, value in expected.items():
        size = math.prod(params[name].shape)
        assert abs(densities[name] - value) * size < 2 + 5e-7 * size


@pytest.mark.parametrize(
    ("params", "density", "dense"),
    [
        (RESNET50, 0.2, 8),
        (RESNET50, 0.1, 1),
        (RESNET50, 0.05, 0),
        *zip([RESNET20] * 4, (0.2, 0.1, 0.05, 0.02), (4, 2, 0, 0), strict=True),
        *zip([RESNET32] * 4, (0.2, 0.1, 0.05, 0.02), (4, 3, 1, 0), strict=True),
    ],
)
def test_erk_makes_this_many_layers_fully_dense(params, density, dense):
    assert sum(d == 1 for d in supjax.erk(params, density).values()) == dense


def test_erk_makes_the_narrow_1x1_layers_of_resnet50_dense():
    densities = supjax.erk(RESNET50, 0.2)
    assert {name for name, d in densities.items() if d == 1} == {
        *STAGE1, "0.0.shortcut", "1.0.reduce"
    }  # fmt: skip
    assert {name for name, d in supjax.erk(RESNET50, 0.1).items() if d == 1} == {"0.0.reduce"}


@pytest.mark.parametrize(
    ("density", "megabytes"), [(0.2, 23.683), (0.1, 13.499), (0.05, 8.399), (1.0, 102.122)]
)
def test_erk_gives_the_model_sizes_that_rigl_published(density, megabytes):
    """RigL's README: 4 bytes a kept weight, channel and bias, 1 bit a weight of a sparse layer."""
    sizes = {name: math.prod(leaf.shape) for name, leaf in RESNET50.items()}
    total = sum(sizes.values())
    assert total == 25_502_912
    counts = layer_counts(RESNET50, supjax.erk(RESNET50, density), budget(density, total))
    kept = sum(4 * counts[name] for name in sizes)
    masks = sum(size / 8 for name, size in sizes.items() if counts[name] < size)
    channels, head_bias = 26_560, 1000
    assert (kept + masks + 4 * (channels + head_bias)) / 1e6 == pytest.approx(megabytes, abs=1.1e-3)


@given(params_trees(), st.integers(1, 100))
def test_erk_hits_the_target_in_proportion_to_the_scores(params, percent):
    densities = jax.tree.leaves(supjax.erk(params, percent / 100))
    shapes = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    sizes = [math.prod(shape) for shape in shapes]
    kept = sum(d * size for d, size in zip(densities, sizes, strict=True))
    assert kept == pytest.approx(percent / 100 * sum(sizes), rel=1e-12)
    assert all(0 <= d <= 1 for d in densities)
    eps = [
        d * size / sum(shape)
        for d, size, shape in zip(densities, sizes, shapes, strict=True)
        if size and d < 1
    ]
    assert eps == pytest.approx([max(eps, default=0)] * len(eps), rel=1e-12)


def test_uniform_leaves_one_named_layer_dense():
    assert supjax.uniform(MLP, 0.25) == {"a": 0.25, "b": 0.25, "c": 0.25}
    assert supjax.uniform(MLP, 0.25, dense_layer="a") == {"a": 1, "b": 0.25, "c": 0.25}


@pytest.mark.parametrize("distribution", ["erk", "uniform"])
@given(params=params_trees(), percent=st.integers(1, 100))
def test_random_masks_hold_the_budget_exactly(distribution, params, percent):
    density = percent / 100
    masks = supjax.init_masks(jax.random.key(0), params, density, distribution)
    assert jax.tree.structure(masks, is_leaf=is_none) == jax.tree.structure(params)
    size = supjax.count_maskable(params)
    assert supjax.count_active(masks) == int(Fraction(percent, 100) * size + Fraction(1, 2))
    layers = [mask for mask in jax.tree.leaves(masks) if mask.size]
    if supjax.count_active(masks) >= len(layers):
        assert all(mask.any() for mask in layers)


@pytest.mark.parametrize("distribution", ["erk", "uniform"])
@pytest.mark.parametrize("params", [RESNET20, RESNET50], ids=["resnet20", "resnet50"])
@pytest.mark.parametrize("density", [0.2, 0.1, 0.05])
def test_layer_counts_are_within_one_of_the_densities(params, density, distribution):
    densities = getattr(supjax, distribution)(params, density)
    total = budget(density, sum(math.prod(leaf.shape) for leaf in params.values()))
    counts = layer_counts(params, densities, total)
    assert sum(counts.values()) == total
    for name, leaf in params.items():
        assert abs(counts[name] - densities[name] * math.prod(leaf.shape)) < 1


def test_no_layer_starts_empty():
    params = shaped({"large": (100, 100), "tiny": (2, 2)})
    counts = layer_counts(params, supjax.uniform(params, 0.01), 100)
    assert counts == {"large": 99, "tiny": 1}


def test_counts_of_layers_above_two_to_the_31():
    params = shaped({"a": (2**20, 2**12), "b": (2**12, 2**20)})
    assert layer_counts(params, supjax.erk(params, 0.3), budget(0.3, 2**33)) == {
        "a": 1_288_490_189, "b": 1_288_490_189
    }  # fmt: skip


KERNELS = {"a": jnp.zeros((8, 8)), "b": {"kernel": jnp.zeros((8, 8)), "bias": jnp.zeros(8)}}


def test_masks_are_drawn_anew_for_every_key_and_leaf():
    first = supjax.init_masks(jax.random.key(0), KERNELS, 0.5, "uniform")
    again = supjax.init_masks(jax.random.key(0), KERNELS, 0.5, "uniform")
    other = supjax.init_masks(jax.random.key(1), KERNELS, 0.5, "uniform")
    assert supjax.iou(first, again) == 1
    assert 1 / 7 < supjax.iou(first, other) < 3 / 5  # a quarter to three quarters are shared
    assert (first["a"] != first["b"]["kernel"]).any()


def test_a_new_layer_reshuffles_no_other():
    before = supjax.init_masks(jax.random.key(0), {"a": KERNELS["a"]}, 0.5, "uniform")
    after = supjax.init_masks(jax.random.key(0), KERNELS, 0.5, "uniform")
    np.testing.assert_array_equal(before["a"], after["a"])


def test_every_place_is_equally_likely():
    draw = jax.jit(jax.vmap(lambda key: supjax.init_masks(key, {"a": KERNELS["a"]}, 0.25)["a"]))
    share = draw(jax.random.split(jax.random.key(0), 2000)).mean(0)
    # Six standard errors of a mean of 2000 draws.
    assert jnp.abs(share - 0.25).max() < 6 * math.sqrt(0.25 * 0.75 / 2000)


def test_there_is_no_default_key():
    assert inspect.signature(supjax.init_masks).parameters["key"].default is inspect.Parameter.empty


NOTHING = "params hold no maskable weight (a kernel by name and shape, or filter_fn's choice)"
BIAS = {"bias": jnp.zeros(3)}
KEY = jax.random.key(0)
BAD = [
    (lambda: supjax.erk(MLP, 0), "density must be in (0, 1], got 0"),
    (lambda: supjax.erk(MLP, 95), "density must be in (0, 1], got 95"),
    (lambda: supjax.erk(BIAS, 0.5), NOTHING),
    (lambda: supjax.uniform(MLP, 1.5), "density must be in (0, 1], got 1.5"),
    (lambda: supjax.uniform(BIAS, 0.5), NOTHING),
    (
        lambda: supjax.uniform(MLP, 0.5, dense_layer="stem"),
        "no maskable leaf 'stem'; there are ['a', 'b', 'c']",
    ),
    (lambda: supjax.init_masks(KEY, MLP, -0.5), "density must be in (0, 1], got -0.5"),
    (
        lambda: supjax.init_masks(KEY, MLP, 0.5, "ert"),
        "distribution must be one of ['erk', 'uniform'], got 'ert'",
    ),
    (lambda: supjax.init_masks(KEY, BIAS, 0.5), NOTHING),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
