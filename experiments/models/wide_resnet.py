"""Wide residual networks (Zagoruyko and Komodakis 2016), pre-activation."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from experiments.models.activations import relu
from experiments.models.initializers import kaiming_fan_out, torch_kernel
from experiments.models.layers import Network


class WideBlock(nn.Module):
    """Batch norm, ReLU and 3x3 convolution, twice, beside a shortcut.

    Where the number of channels changes, the shortcut is a bare 1x1 convolution of the activated
    input; elsewhere it is the identity.

    Attributes:
      conv: constructor of the convolutions.
      norm: constructor of the batch norms.
      channels: output channels.
      stride: of the first convolution and the shortcut.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the block's activations `(batch, height / stride, width / stride, channels)`."""
        y = relu(self.norm(name="bn1")(x))
        if self.stride > 1 or x.shape[-1] != self.channels:
            x = self.conv(self.channels, (1, 1), self.stride, padding=0, name="convShortcut")(y)
        y = self.conv(self.channels, (3, 3), self.stride, padding=1, name="conv1")(y)
        y = relu(self.norm(name="bn2")(y))
        return x + self.conv(self.channels, (3, 3), padding=1, name="conv2")(y)


class WideResNet(Network):
    """WRN-depth-k: 3x3 stem with 16 channels, three stages of 16k, 32k, 64k channels, mean, `fc`.

    No dropout, as in the paper's runs.

    Initialisation: `N(0, 2 / fan_out)` for convolutions, PyTorch's default for the kernel of `fc`,
    whose bias starts at 0.

    Attributes:
      depth: number of layers, 6 n + 4.
      widen_factor: k. (`width`, the field of every network, scales the stem as well.)
    """

    depth: int = 28
    widen_factor: int = 10

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
          ValueError: for a depth that is not 6 n + 4, or a widening factor below 1.
        """
        super().__post_init__()
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4 (10, 16, 22, 28 ...), got {self.depth}")
        if self.widen_factor < 1:
            raise ValueError(f"widen_factor must be at least 1, got {self.widen_factor}")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits `(batch, num_classes)`, float32.

        Args:
          x: normalised images `(batch, height, width, channels)`.
          train: normalise by the batch and update the running statistics.
        """
        self.check_images(x, stem="conv1")
        conv = functools.partial(
            nn.Conv, use_bias=False, kernel_init=kaiming_fan_out, dtype=self.dtype
        )
        norm = self.norm(train)
        x = conv(self.scaled(16), (3, 3), padding=1, name="conv1")(x)
        for stage in range(3):
            channels = self.scaled((16 << stage) * self.widen_factor)
            for index in range((self.depth - 4) // 6):
                stride = 2 if stage > 0 and index == 0 else 1
                block = WideBlock(
                    conv, norm, channels, stride, name=f"block{stage + 1}_layer_{index}"
                )
                x = block(x)
        x = relu(norm(name="bn1")(x)).mean((1, 2))
        fc = nn.Dense(self.num_classes, kernel_init=torch_kernel, dtype=self.dtype, name="fc")
        return fc(x).astype("float32")
