"""ResNets with four stages (He et al. 2016, table 1), in their CIFAR and ImageNet forms."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from experiments.models.activations import relu
from experiments.models.blocks import BasicBlock, Bottleneck
from experiments.models.initializers import kaiming_fan_in, torch_kernel
from experiments.models.layers import Network, dense

Block = Callable[..., BasicBlock | Bottleneck]


def _stages(
    x: jax.Array, stage_sizes: Sequence[int], make_block: Block, first_channels: int
) -> jax.Array:
    """Return the activations behind all stages, averaged over the image: `(batch, channels)`."""
    for stage, size in enumerate(stage_sizes):
        for index in range(size):
            stride = 2 if stage > 0 and index == 0 else 1
            block = make_block(
                channels=first_channels << stage, stride=stride, name=f"layer{stage + 1}_{index}"
            )
            x = block(x)
    return x.mean((1, 2))


class ResNet(Network):
    """ResNet for small images: 3x3 stride-1 stem, four stages, mean, `classifier` without bias.

    Initialisation: PyTorch's default for all kernels, as the reference leaves it.

    Attributes:
      stage_sizes: blocks per stage.
      block: `Bottleneck` or `BasicBlock`.
    """

    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    block: Block = Bottleneck

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits `(batch, num_classes)`, float32.

        Args:
          x: normalised images `(batch, height, width, channels)`.
          train: normalise by the batch and update the running statistics.
        """
        self.check_images(x, stem="conv1")
        conv = functools.partial(
            nn.Conv, use_bias=False, kernel_init=torch_kernel, dtype=self.dtype
        )
        norm = self.norm(train)
        x = conv(self.scaled(64), (3, 3), padding=1, name="conv1")(x)
        x = relu(norm(name="bn1")(x))
        make_block = functools.partial(self.block, conv=conv, norm=norm)
        x = _stages(x, self.stage_sizes, make_block, self.scaled(64))
        x = dense(x, self.num_classes, use_bias=False, dtype=self.dtype, name="classifier")
        return x.astype("float32")


class ImageNetResNet(Network):
    """ResNet for ImageNet: 7x7 stride-2 stem, 3x3 max-pool, four stages, mean, dense layer `fc`.

    Initialisation: `N(0, 2 / fan_in)` for convolutions, PyTorch's default for `fc`.

    Attributes:
      stage_sizes: blocks per stage.
      block: `Bottleneck` or `BasicBlock`.
    """

    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    block: Block = Bottleneck

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits `(batch, num_classes)`, float32.

        Args:
          x: normalised images `(batch, height, width, channels)`.
          train: normalise by the batch and update the running statistics.
        """
        self.check_images(x, stem="conv1")
        conv = functools.partial(
            nn.Conv, use_bias=False, kernel_init=kaiming_fan_in, dtype=self.dtype
        )
        norm = self.norm(train)
        x = conv(self.scaled(64), (7, 7), 2, padding=3, name="conv1")(x)
        x = relu(norm(name="bn1")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        make_block = functools.partial(self.block, conv=conv, norm=norm, shortcut="downsample")
        x = _stages(x, self.stage_sizes, make_block, self.scaled(64))
        return dense(x, self.num_classes, dtype=self.dtype, name="fc").astype("float32")
