"""The distributions from which the reference draws initial weights.

Kernels are (height, width, in, out) or (in, out): `fan_in` is the product of all sizes but the
last, `fan_out` that of all but the last but one. Functions of type `Initializer` take
`(key, shape, dtype)`, as linen wants them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]


def normal(std: float) -> Initializer:
    """Return an initialiser that draws from `N(0, std²)`.

    Args:
      std: standard deviation.

    >>> normal(0.01)(jax.random.key(0), (3, 2)).shape
    (3, 2)
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return std * _draw(jax.random.normal, key, shape, dtype)

    return init


def kaiming_fan_in(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Draw a kernel from `N(0, 2 / fan_in)`, PyTorch's `kaiming_normal_` (never truncated)."""
    return normal(math.sqrt(2 / math.prod(shape[:-1])))(key, shape, dtype)


def kaiming_fan_out(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Draw a kernel from `N(0, 2 / fan_out)`."""
    return normal(math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1])))(key, shape, dtype)


def torch_bias(fan_in: int) -> Initializer:
    """Return PyTorch's default initialiser of a bias, `U(-1/sqrt(fan_in), 1/sqrt(fan_in))`.

    Args:
      fan_in: number of inputs that one output sums over.

    >>> bias = torch_bias(4)(jax.random.key(0), (100,))
    >>> bool(abs(bias).max() <= 0.5)
    True
    """
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return bound * (2 * _draw(jax.random.uniform, key, shape, dtype) - 1)

    return init


def torch_kernel(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Draw a kernel from PyTorch's default, `U(-1/sqrt(fan_in), 1/sqrt(fan_in))`."""
    return torch_bias(math.prod(shape[:-1]))(key, shape, dtype)


def _draw(sampler: Initializer, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    """Draw a power of two of values, at least 1024, and keep those that fit `shape`.

    XLA compiles the generator once per length and not once per weight: initialising VGG-19 or
    ResNet-32 compiles about five times faster.
    """
    size = math.prod(shape)
    length = max(1024, 1 << (size - 1).bit_length())
    return sampler(key, (length,), dtype)[:size].reshape(shape)
