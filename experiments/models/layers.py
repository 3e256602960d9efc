"""What all networks share: batch norm as in PyTorch, dense layers, fields and checks."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.models.initializers import Initializer, torch_bias, torch_kernel


def batch_moments(x: jax.Array, axis_name: str | None = None) -> tuple[jax.Array, jax.Array, int]:
    """Return mean, biased variance `E[x²] - E[x]²` and number of values of every channel.

    Args:
      x: activations, channels last, float32.
      axis_name: mapped axis over whose devices the moments are taken too.

    Returns:
      Mean and variance of shape `(channels,)`, and how many values each one averages.

    >>> mean, variance, count = batch_moments(jnp.array([[1.0], [3.0]]))
    >>> float(mean[0]), float(variance[0]), count
    (2.0, 1.0, 2)
    """
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    mean, mean_of_squares = x.mean(axes), jnp.square(x).mean(axes)
    if axis_name is not None:
        mean, mean_of_squares = jax.lax.pmean((mean, mean_of_squares), axis_name)
        count *= jax.lax.psum(1, axis_name)
    return mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0), count


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last, `y = (x - mean) / sqrt(var + epsilon) * scale + bias`.

    Running statistics follow `momentum * old + (1 - momentum) * new`. Unlike `nn.BatchNorm` the new
    variance is the unbiased one (factor n / (n - 1)), as in PyTorch; the batch itself is normalised
    by the biased one. Statistics, scale and bias are float32 whatever `dtype` is. With momentum 0
    the running statistics become those of the batch, which is how they are re-estimated.

    Attributes:
      use_running_average: normalise by the running statistics and leave them alone.
      momentum: weight of the old running statistics.
      epsilon: added to the variance.
      dtype: of the result.
      axis_name: mapped axis over whose devices the statistics are taken; None for each its own.

    >>> layer = BatchNorm(use_running_average=False, momentum=0.0)
    >>> x = jnp.array([[1.0], [3.0]])
    >>> _, updates = layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    >>> float(updates["batch_stats"]["var"][0])
    2.0
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the normalised activations, in their shape.

        Args:
          x: activations, channels last.

        Raises:
          ValueError: when training on a single value per channel, which has no variance.
        """
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        x = x.astype(jnp.float32)
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        elif self.is_initializing():
            mean, var, _ = batch_moments(x)
        else:
            mean, var, count = batch_moments(x, self.axis_name)
            if count < 2:
                raise ValueError(
                    f"batch norm trains on more than one value per channel, got input {x.shape}"
                )
            keep, unbias = self.momentum, count / (count - 1)
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * unbias * var
        # One multiply and one add per activation: a third faster than subtracting the mean first,
        # forward and backward, on XLA's CPU backend.
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        offset = bias - mean * factor
        channels = (1,) * (x.ndim - 1) + shape
        return (x * factor.reshape(channels) + offset.reshape(channels)).astype(self.dtype)


class Network(nn.Module):
    """Fields and helpers of every network; `__call__(images, train)` returns float32 logits.

    Attributes:
      num_classes: number of logits.
      width: factor on all channel counts, so that tests can run tiny networks.
      dtype: of the computation; parameters and statistics stay float32.
      bn_momentum: weight of the old running statistics; `network.clone(bn_momentum=0.0)` exposes
        the moments of each batch instead.
      axis_name: mapped axis over which batch norm takes its statistics; None for each device
        its own.
    """

    num_classes: int
    width: float = 1.0
    dtype: Any = jnp.float32
    bn_momentum: float = 0.9
    axis_name: str | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
          TypeError: for a dtype that is not floating-point.
          ValueError: for fields outside their range.
        """
        super().__post_init__()
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        if not self.width > 0:
            raise ValueError(f"width must be above 0, got {self.width}")
        if not jnp.issubdtype(self.dtype, jnp.floating):
            raise TypeError(f"dtype must be a floating-point type, got {self.dtype}")
        if not 0 <= self.bn_momentum < 1:
            raise ValueError(f"bn_momentum must be in [0, 1), got {self.bn_momentum}")

    def scaled(self, channels: int) -> int:
        """Return `round(channels * width)`, at least 1."""
        return max(1, round(channels * self.width))

    def norm(self, train: bool) -> Callable[..., BatchNorm]:
        """Return a constructor of this network's batch norm layers."""
        return functools.partial(
            BatchNorm,
            use_running_average=not train,
            momentum=self.bn_momentum,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )

    def check_images(
        self, x: jax.Array, stem: str = "", smallest: int = 1, largest: int | None = None
    ) -> None:
        """Refuse what would silently give garbage.

        Args:
          x: the input.
          stem: name of the first convolution, whose kernel knows the number of channels.
          smallest: fewest pixels a side.
          largest: most pixels a side.

        Raises:
          TypeError: for images that are not floats (normalise them first).
          ValueError: for wrong rank, sides or channels.
        """
        name = type(self).__name__
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} takes normalised float images, got {x.dtype}")
        sides = f"{smallest} to {largest}" if largest else f"at least {smallest}"
        short = x.ndim != 4 or min(x.shape[1:3]) < smallest or x.shape[3] < 1
        if short or max(x.shape[1:3]) > (largest or math.inf):
            raise ValueError(
                f"{name} takes images (batch, height, width, channels) with {sides} pixels a side "
                f"and at least 1 channel, got shape {x.shape}"
            )
        kernel = self.variables.get("params", {}).get(stem, {}).get("kernel")
        if kernel is not None and kernel.shape[2] != x.shape[3]:
            raise ValueError(
                f"{name} was initialised for {kernel.shape[2]} channels, got shape {x.shape}"
            )


def dense(
    x: jax.Array,
    features: int,
    *,
    name: str,
    dtype: Any,
    kernel_init: Initializer = torch_kernel,
    use_bias: bool = True,
) -> jax.Array:
    """Return the output of a new dense layer of the module that calls, initialised as in PyTorch.

    Args:
      x: activations `(batch, inputs)`.
      features: number of outputs.
      name: of the layer.
      dtype: of the computation.
      kernel_init: initialiser of the kernel; that of the bias is always `torch_bias`.
      use_bias: whether there is a bias.

    Returns:
      An array `(batch, features)`.
    """
    bias_init = torch_bias(x.shape[-1])
    layer = nn.Dense(
        features, use_bias, dtype, kernel_init=kernel_init, bias_init=bias_init, name=name
    )
    return layer(x)


def flatten_channels_first(x: jax.Array) -> jax.Array:
    """Return images flattened in PyTorch's order (channel, row, column).

    Args:
      x: images or activations `(batch, height, width, channels)`.

    Returns:
      An array `(batch, channels * height * width)`, so that the dense layer behind it has the
      reference's rows.

    >>> flatten_channels_first(jnp.arange(4).reshape(1, 1, 2, 2)).tolist()
    [[0, 2, 1, 3]]
    """
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
