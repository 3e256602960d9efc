"""The networks by name: their sizes, their fields and what they refuse."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

from experiments.models import MODEL_NAMES, create_model

IMAGE = (32, 32, 3)
# reference name: (our name, classes, options, image shape)
COUNTED = {
    "cifar_resnet_8_4_c10": ("resnet20", 10, {"depth": 8, "width": 0.25}, IMAGE),
    "cifar_resnet_20_c10": ("resnet20", 10, {}, IMAGE),
    "cifar_resnet_32_c10": ("resnet32", 10, {}, IMAGE),
    "cifar_resnet_32_c100": ("resnet32", 100, {}, IMAGE),
    "imagenet_resnet18": ("imagenet_resnet18", 1000, {}, (224, 224, 3)),
    "imagenet_resnet34": ("imagenet_resnet34", 1000, {}, (224, 224, 3)),
    "imagenet_resnet50": ("imagenet_resnet50", 1000, {}, (224, 224, 3)),
    "imagenet_resnet101": ("imagenet_resnet101", 1000, {}, (224, 224, 3)),
    "lenet_300_100": ("lenet_300_100", 10, {}, (28, 28, 1)),
    "lenet_5_caffe": ("lenet5", 10, {}, (28, 28, 1)),
    "mlp_cifar10": ("mlp", 10, {}, IMAGE),
    "resnet18_cifar_c10": ("resnet18", 10, {}, IMAGE),
    "resnet34_cifar_c10": ("resnet34", 10, {}, IMAGE),
    "resnet50_cifar_c10": ("resnet50", 10, {}, IMAGE),
    "resnet50_cifar_c100": ("resnet50", 100, {}, IMAGE),
    "vgg19_c10": ("vgg19", 10, {}, IMAGE),
    "vgg19_c100": ("vgg19", 100, {}, IMAGE),
    "vgg_like_c10": ("vgg16", 10, {}, IMAGE),
    "wrn_16_8_c10": ("wrn16_8", 10, {}, IMAGE),
    "wrn_16_10_c10": ("wrn16_8", 10, {"widen_factor": 10}, IMAGE),
    "wrn_28_10_c10": ("wrn28_10", 10, {}, IMAGE),
    "wrn_28_10_c100": ("wrn28_10", 100, {}, IMAGE),
}


def shapes_of(model, image_shape, batch=(2,), dtype="float32"):
    """Returns the shapes of all variables without computing any."""
    init = functools.partial(model.init, train=False)
    images = jax.ShapeDtypeStruct((*batch, *image_shape), dtype)
    return jax.eval_shape(init, jax.random.key(0), images)


def sizes(tree):
    return [leaf.size for leaf in jax.tree.leaves(tree)]


def maskable_sizes(params):
    return [
        leaf.size
        for path, leaf in jax.tree.leaves_with_path(params)
        if path[-1].key == "kernel" and leaf.ndim in (2, 4)
    ]


@pytest.mark.parametrize("reference", sorted(COUNTED))
def test_counts_equal_the_reference(reference, golden_folder):
    expected = json.loads((golden_folder / "param_counts.json").read_text())[reference]
    name, num_classes, options, image_shape = COUNTED[reference]
    variables = shapes_of(create_model(name, num_classes, **options), image_shape)
    params, stats = variables["params"], variables.get("batch_stats", {})
    counters = len(jax.tree.leaves(stats)) // 2
    assert sum(sizes(params)) == expected["params"]
    assert len(sizes(params)) == expected["param_tensors"]
    assert sum(maskable_sizes(params)) == expected["masked_params"]
    assert len(maskable_sizes(params)) == expected["masked_tensors"]
    assert sum(sizes(stats)) + counters == expected["buffers"]


def test_vgg16_for_100_classes_has_the_published_number_of_maskable_weights():
    variables = shapes_of(create_model("vgg16", 100), IMAGE)
    assert sum(maskable_sizes(variables["params"])) == 15_023_808


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_maskable_weight_is_a_kernel_and_no_other_leaf_could_be_one(name):
    image_shape = (28, 28, 1) if "lenet" in name or "digits" in name else IMAGE
    params = shapes_of(create_model(name, 10), image_shape)["params"]
    for path, leaf in jax.tree.leaves_with_path(params):
        assert (path[-1].key == "kernel") == (leaf.ndim in (2, 4))
        assert path[-1].key in ("kernel", "scale", "bias")


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_width_scales_every_hidden_layer(name):
    image_shape = (28, 28, 1) if "lenet" in name or "digits" in name else IMAGE
    full, half = (
        shapes_of(create_model(name, 10, width=width), image_shape)["params"]
        for width in (1.0, 0.5)
    )
    assert jax.tree.structure(full) == jax.tree.structure(half)
    kernels = [
        (a.shape, b.shape)
        for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(half), strict=True)
        if a.ndim in (2, 4)
    ]
    outputs = [(a[-1], b[-1]) for a, b in kernels]
    assert outputs.count((10, 10)) == 1
    assert all(b == a // 2 for a, b in outputs if a != 10)


def test_digits_networks_fit_both_image_sizes():
    model = create_model("digits_cnn", 10)
    small, large = (shapes_of(model, (side, side, 1))["params"] for side in (8, 28))
    assert small["fc"]["kernel"].shape == (2 * 2 * 64, 10)
    assert large["fc"]["kernel"].shape == (7 * 7 * 64, 10)
    assert sum(sizes(small)) == 25_978


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown network 'vgg61'; known are digits_cnn, .*vgg16"):
        create_model("vgg61", 10)


def test_unknown_options_list_the_known_ones():
    with pytest.raises(ValueError, match=r"vgg16 has no option 'depth'; it has .*bn_momentum"):
        create_model("vgg16", 10, depth=13)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet32", {"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ("resnet32", {"width": 0.0}, "width must be above 0, got 0.0"),
        ("resnet32", {"width": float("nan")}, "width must be above 0, got nan"),
        ("resnet32", {"bn_momentum": 1.0}, r"bn_momentum must be in \[0, 1\), got 1.0"),
        ("resnet32", {"depth": 31}, r"depth must be 6 n \+ 2 .*, got 31"),
        ("resnet32", {"depth": 2}, r"depth must be 6 n \+ 2 .*, got 2"),
        ("wrn28_10", {"depth": 27}, r"depth must be 6 n \+ 4 .*, got 27"),
        ("wrn28_10", {"widen_factor": 0}, "widen_factor must be at least 1, got 0"),
    ],
)
def test_fields_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **{"num_classes": 10} | options)


def test_a_dtype_that_is_not_floating_point_is_refused():
    with pytest.raises(TypeError, match="dtype must be a floating-point type"):
        create_model("resnet32", 10, dtype=jnp.int32)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "vgg16",
            (2, 8, 8, 3),
            r"VGG16 takes images .* with 32 to 63 pixels a side and .*, got .*8, 8",
        ),
        ("vgg16", (2, 64, 32, 3), "VGG16 takes images .* with 32 to 63 pixels a side"),
        ("vgg19", (2, 8, 8, 3), "VGG19 takes images .* with at least 16 pixels a side"),
        ("lenet5", (2, 8, 8, 1), "LeNet5 takes images .* with at least 16 pixels a side"),
        ("digits_cnn", (2, 3, 3, 1), "DigitsCNN takes images .* with at least 4 pixels a side"),
        ("resnet20", (32, 32, 3), r"CifarResNet takes images .* got shape \(32, 32, 3\)"),
        ("mlp", (2, 3072), r"MLP takes images .* got shape \(2, 3072\)"),
    ],
)
def test_images_of_the_wrong_shape_are_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(create_model(name, 10), shape, batch=())


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_raw_bytes_are_refused(name):
    with pytest.raises(TypeError, match="takes normalised float images, got uint8"):
        shapes_of(create_model(name, 10), IMAGE, dtype="uint8")
