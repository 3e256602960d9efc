"""Post-activation residual blocks, shared by all ResNets but the wide ones."""

from collections.abc import Callable

import flax.linen as nn
import jax

from experiments.models.activations import relu


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, figure 5 left).

    The shortcut is the identity, or 1x1 convolution and batch norm where the shape changes.

    Attributes:
      conv: constructor of the convolutions.
      norm: constructor of the batch norms.
      channels: output channels.
      stride: of the first convolution and the shortcut.
      shortcut: name prefix of the projection's two layers.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    channels: int
    stride: int = 1
    shortcut: str = "shortcut"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the block's activations `(batch, height / stride, width / stride, channels)`."""
        y = self.conv(self.channels, (3, 3), self.stride, padding=1, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y))
        y = self.conv(self.channels, (3, 3), padding=1, name="conv2")(y)
        y = self.norm(name="bn2")(y)
        return relu(y + _shortcut(self, x, self.channels))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut, stride on the 3x3; 4 × `channels` outputs.

    (He et al. 2016, figure 5 right; the stride moved as in torchvision's "v1.5".) The shortcut is
    that of `BasicBlock`.

    Attributes:
      conv: constructor of the convolutions.
      norm: constructor of the batch norms.
      channels: channels of the 3x3 convolution.
      stride: of the 3x3 convolution and the shortcut.
      shortcut: name prefix of the projection's two layers.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    channels: int
    stride: int = 1
    shortcut: str = "shortcut"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the activations `(batch, height / stride, width / stride, 4 * channels)`."""
        y = self.conv(self.channels, (1, 1), name="conv1")(x)
        y = relu(self.norm(name="bn1")(y))
        y = self.conv(self.channels, (3, 3), self.stride, padding=1, name="conv2")(y)
        y = relu(self.norm(name="bn2")(y))
        y = self.conv(4 * self.channels, (1, 1), name="conv3")(y)
        y = self.norm(name="bn3")(y)
        return relu(y + _shortcut(self, x, 4 * self.channels))


def _shortcut(block: BasicBlock | Bottleneck, x: jax.Array, channels: int) -> jax.Array:
    if block.stride == 1 and x.shape[-1] == channels:
        return x
    x = block.conv(channels, (1, 1), block.stride, padding=0, name=f"{block.shortcut}_0")(x)
    return block.norm(name=f"{block.shortcut}_1")(x)
