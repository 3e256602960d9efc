"""Max-pools and convolutions of small maps, in the form that the platform compiles best."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.models.activations import on_cpu


def max_pool(x: jax.Array) -> jax.Array:
    """Return the maxima of 2x2 windows without overlap; of equal ones the first gets the gradient.

    On CPU they are selected pair by pair: there XLA takes forty times as long for the gradient of
    the windowed maximum. Values and gradients are the same bits.

    Args:
      x: activations `(batch, height, width, channels)`; an odd last row or column is left out.

    >>> max_pool(jnp.array([[1.0, 5.0, 0.0], [2.0, 3.0, 9.0]])[None, :, :, None]).tolist()
    [[[[5.0]]]]
    """
    if not on_cpu():
        return nn.max_pool(x, (2, 2), (2, 2))
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    upper, lower = (_larger(x[:, :, row, :, 0], x[:, :, row, :, 1]) for row in (0, 1))
    return _larger(upper, lower)


def _larger(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.where((first >= second) | jnp.isnan(first), first, second)


def convolve(layer: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Return `layer(x)` of a 3x3 convolution with stride 1 that keeps the sides of its maps.

    On CPU a map with fewer than 3 pixels a side is filled up with zeros, and the result cut: XLA
    computes a convolution whose kernel is larger than the map in a scalar loop, thirty times as
    slow. Barriers keep it from seeing through this, forward and backward. Equal to rounding.

    Args:
      layer: the convolution, padded by zeros; a bias may be added.
      x: activations `(batch, height, width, channels)`.
    """
    height, width = x.shape[1:3]
    missing = [(0, max(0, 3 - side)) for side in (height, width)]
    if not on_cpu() or missing == [(0, 0), (0, 0)]:
        return layer(x)
    filled = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *missing, (0, 0))))
    return jax.lax.optimization_barrier(layer(filled))[:, :height, :width]
