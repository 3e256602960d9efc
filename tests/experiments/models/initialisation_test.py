"""Initial weights follow the distributions of the reference, network by network."""

import functools

import jax
import numpy as np
import pytest

from experiments.models import create_model

# What each rule makes of a kernel (height, width, in, out) or (in, out): (standard deviation,
# kurtosis); the kurtosis is 3 for a normal and 1.8 for a uniform distribution.
RULES = {
    "kaiming fan-in": lambda shape: (np.sqrt(2 / np.prod(shape[:-1])), 3.0),
    "kaiming fan-out": lambda shape: (np.sqrt(2 / np.prod((*shape[:-2], shape[-1]))), 3.0),
    "PyTorch": lambda shape: (np.sqrt(1 / 3 / np.prod(shape[:-1])), 1.8),
    "0.01": lambda shape: (0.01, 3.0),
}
SMALL = {"stage_sizes": (1, 1, 1, 1), "width": 0.25}
# name: (options, image shape, rule of convolutions, rule of dense kernels, are biases drawn?)
NETWORKS = {
    "digits_cnn": ({}, (8, 8, 1), "kaiming fan-in", "PyTorch", True),
    "imagenet_resnet50": (SMALL, (32, 32, 3), "kaiming fan-in", "PyTorch", True),
    "lenet5": ({}, (28, 28, 1), "PyTorch", "PyTorch", True),
    "mlp": ({"width": 0.25}, (8, 8, 3), None, "PyTorch", True),
    "resnet20": ({"depth": 8}, (8, 8, 3), "kaiming fan-in", "kaiming fan-in", True),
    "resnet50": (SMALL, (8, 8, 3), "PyTorch", "PyTorch", False),
    "vgg16": ({"width": 0.125}, (32, 32, 3), "PyTorch", "PyTorch", True),
    "vgg19": ({"width": 0.125}, (32, 32, 3), "kaiming fan-out", "0.01", False),
    "wrn16_8": ({"depth": 10, "widen_factor": 2}, (8, 8, 3), "kaiming fan-out", "PyTorch", False),
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_distributions(name):
    options, image_shape, conv_rule, dense_rule, drawn_biases = NETWORKS[name]
    model = create_model(name, 100, **options)
    init = jax.jit(functools.partial(model.init, train=False))
    params = init(jax.random.key(0), np.zeros((2, *image_shape), np.float32))["params"]
    kernels, biases = {}, {}
    for path, leaf in jax.tree.leaves_with_path(jax.device_get(params)):
        module = jax.tree_util.keystr(path[:-1], simple=True, separator="/")
        {"kernel": kernels, "bias": biases}.get(path[-1].key, {})[module] = leaf
        if path[-1].key == "scale":
            np.testing.assert_array_equal(leaf, 1)

    pooled = {conv_rule: [], dense_rule: []}
    for module, kernel in kernels.items():
        rule = conv_rule if kernel.ndim == 4 else dense_rule
        deviation, kurtosis = RULES[rule](kernel.shape)
        standardised = kernel.ravel() / deviation
        pooled[rule].append(standardised)
        # Five standard errors: of the standard deviation, and of the mean.
        error = np.sqrt((kurtosis - 1) / 4 / kernel.size)
        assert abs(standardised.std() - 1) < 5 * error, module
        assert abs(standardised.mean()) < 5 / np.sqrt(kernel.size), module
        if rule == "PyTorch":
            assert abs(standardised).max() <= np.sqrt(3) * (1 + 1e-6), module
    for rule, values in pooled.items():
        if rule is not None:
            values = np.concatenate(values)
            assert abs((values**4).mean() - RULES[rule]((1, 1))[1]) < 0.6, rule

    drawn = []
    for module, bias in biases.items():
        if drawn_biases and module in kernels:
            drawn.append(bias * np.sqrt(np.prod(kernels[module].shape[:-1])))
        else:
            np.testing.assert_array_equal(bias, 0)
    if drawn_biases:
        values = np.concatenate(drawn)
        assert abs(values).max() <= 1
        assert abs(values.std() - np.sqrt(1 / 3)) < 5 * np.sqrt(0.2 / values.size) * np.sqrt(1 / 3)
