"""What names say: words, biases, scales and norms, and names that only look like them."""

import jax
import jax.numpy as jnp
import pytest

from supjax.leaf_names import is_affine, is_bias, is_vector, module_of, siblings, words


def leaf(*shape):
    """A weight without values."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LayerNorm_0", ["layer", "norm"]),
        ("BatchNorm1d", ["batch", "norm"]),
        ("RMSNorm", ["rms", "norm"]),
        ("ln_1", ["ln"]),
        ("bias_hh", ["bias", "hh"]),
        ("b1", ["b"]),
        ("conv2d", ["conv"]),
        ("unbiased_proj", ["unbiased", "proj"]),
        ("0", []),
    ],
)
def test_words_of_names(name, expected):
    assert words(name) == expected


AFFINE = [
    "dense/bias",
    "rnn/bias_hh",
    "norm/scale",
    "norm/weight",
    "LayerNorm_0/scale",
    "BatchNorm_0/mean",
    "blocks/ln_1/g",
    "ln_1/weight",
    "rms_norm/w",
    "layer_norm/offset",
    "layernorm/gamma",
    "linear/b",
    "b1",
    "block/norm1/1",
    "prelu/alpha",
]
KERNELS = [
    "dense/kernel",
    "layers/0/weight",
    "linear/w",
    "unbiased_proj/weight",
    "norm_proj/kernel",
    "normalizer/w",
    "w_scale",
    "w1",
    "bottleneck/kernel",
    "scaled_dense/kernel",
    "embedding",
    "0",
]


@pytest.mark.parametrize("path", AFFINE)
def test_biases_scales_and_norms_by_name(path):
    assert is_affine(path, leaf(3, 8))


@pytest.mark.parametrize("path", KERNELS)
def test_names_of_kernels(path):
    assert not is_affine(path, leaf(3, 8))


def test_a_bare_b_is_a_bias_only_beside_weights_of_higher_rank():
    low_rank = {"lora/a": leaf(8, 2), "lora/b": leaf(2, 8)}
    stacked = {"up/w": leaf(3, 8, 4), "up/b": leaf(3, 4)}
    assert not is_bias("lora/b", low_rank["lora/b"], low_rank)
    assert is_bias("up/b", stacked["up/b"], stacked)


def test_weight_and_bias_of_one_shape_are_a_norm():
    module = {"x/weight": leaf(3, 8), "x/bias": leaf(3, 8)}
    assert is_affine("x/weight", module["x/weight"], module)
    assert not is_affine("x/weight", module["x/weight"], {"x/weight": module["x/weight"]})


@pytest.mark.parametrize(
    ("shape", "expected"), [((8,), True), ((1, 8, 1), True), ((2, 8), False), ((1, 1), True)]
)
def test_vectors_have_one_long_dimension(shape, expected):
    assert is_vector(shape) is expected


def test_leaves_by_module_without_none():
    assert siblings({"a/w": 1, "a/b": None, "c": 2}) == {"a": {"a/w": 1}, "": {"c": 2}}
    assert module_of("a/b/w") == "a/b"
