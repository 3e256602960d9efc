"""What a leaf is by its name and its neighbours: a kernel, or a bias, a scale, a part of a norm.

Names are matched by whole words of the last parts of a path. `ln_1`, `LayerNorm_0` and `bias_hh`
hold the words *ln*, *layer norm* and *bias hh*; `unbiased_proj` and `normalizer` hold none that
matters here.
"""

import re
from collections.abc import Mapping
from typing import Any

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_DIMENSIONS = re.compile(r"\d+[dD](?![A-Za-z])")  # as in conv2d, BatchNorm1d

BIASES = {"bias", "biases", "beta", "offset", "offsets", "shift"}
SCALES = {"scale", "scales", "gamma", "gain", "alpha", "slope"}
_NORMS = {"ln", "bn", "gn"}
_NORM_ENDINGS = ("norm", "norms", "normalization", "normalisation")
_STATISTICS = {"mean", "var"}
_LAYERS = {"proj", "projection", "linear", "dense", "conv", "fc"}
_KERNELS = {"kernel", "kernels"}
_WEIGHTS = {"w", "weight", "weights", *_KERNELS}


def words(name: str) -> list[str]:
    """Return the words of a name in lower case, without digits.

    >>> words("RMSNorm_0"), words("b1"), words("attention_output"), words("conv2d")
    (['rms', 'norm'], ['b'], ['attention', 'output'], ['conv'])
    """
    return [word.lower() for word in _WORD.findall(_DIMENSIONS.sub(" ", name))]


def module_of(path: str) -> str:
    """Return the path of the node that holds a leaf, or a node; that of the root is empty.

    >>> module_of("block/dense/kernel"), module_of("kernel")
    ('block/dense', '')
    """
    return path.rpartition("/")[0]


def siblings(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the leaves by the module that holds them; `None` leaves are left out.

    >>> siblings({"a/w": 1, "a/b": 2, "c": None})
    {'a': {'a/w': 1, 'a/b': 2}}
    """
    modules: dict[str, dict[str, Any]] = {}
    for path, leaf in leaves.items():
        if leaf is not None:
            modules.setdefault(module_of(path), {})[path] = leaf
    return modules


def is_vector(shape: tuple[int, ...]) -> bool:
    """Say whether at most one dimension is longer than 1."""
    return sum(n > 1 for n in shape) <= 1


def is_bias(path: str, leaf: Any, module: Mapping[str, Any] | None = None) -> bool:
    """Say whether a leaf is a bias by name; a bare `b` is one beside weights of higher rank.

    Args:
      path: where the leaf stands.
      leaf: array or `jax.ShapeDtypeStruct`.
      module: the leaves beside it by path, itself included; None if they are not known. A bare
        `b`, `b1`, `b_q` counts as a bias then.
    """
    found = words(path.rpartition("/")[2])
    if found[:1] == ["b"]:
        return module is None or any(
            set(words(other.rpartition("/")[2])[:1]) & _WEIGHTS and beside.ndim > leaf.ndim
            for other, beside in module.items()
        )
    return _names(found, lambda word: word in BIASES)


def is_affine(path: str, leaf: Any, module: Mapping[str, Any] | None = None) -> bool:
    """Say whether a leaf is a bias, a scale or a part of a norm, and so never sparse by default.

    Args:
      path: where the leaf stands.
      leaf: array or `jax.ShapeDtypeStruct`.
      module: see `is_bias`.

    >>> import jax.numpy as jnp
    >>> stacked = jnp.zeros((3, 8))
    >>> [is_affine(path, stacked) for path in ("norm/weight", "up/bias", "unbiased_proj/weight")]
    [True, True, False]
    """
    nodes = [part for part in path.split("/") if not part.isdigit()]
    found = words(nodes[-1]) if nodes and not path.rpartition("/")[2].isdigit() else []
    if found and found[-1] in _KERNELS:
        return False
    if is_bias(path, leaf, module) or _names(found, _belongs_to_norm) or _is_scale(found):
        return True
    if len(found) == 1 and found[0] in _STATISTICS:
        return True
    parent = words(nodes[-2]) if found and len(nodes) > 1 else words(nodes[-1]) if nodes else []
    if _names(parent, lambda word: word in BIASES or _belongs_to_norm(word)):
        return True
    if found[-1:] == ["g"] and is_vector(leaf.shape):  # weight normalization's magnitudes
        return True
    if leaf.ndim > 2 and is_vector(leaf.shape) and not set(found) & _WEIGHTS:
        return True
    return any(  # weight and bias of one shape: a norm, whatever its name
        beside.shape == leaf.shape and other != path and "bias" in words(other.rpartition("/")[2])
        for other, beside in (module or {}).items()
    )


def _belongs_to_norm(word: str) -> bool:
    return word in _NORMS or word.endswith(_NORM_ENDINGS)


def _is_scale(found: list[str]) -> bool:
    return _names(found, lambda word: word in SCALES)


def _names(found: list[str], is_one: Any) -> bool:
    """Say whether a word matters; `norm_proj` is a projection and `w_scale` a weight."""
    if not found or found[0] == "w" or found[-1] in _LAYERS | _KERNELS:
        return False
    return any(map(is_one, found))
