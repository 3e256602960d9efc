"""The small ResNets of He et al. (2016, section 4.2) for CIFAR: 20, 32, 56 ... layers."""

import functools

import flax.linen as nn
import jax

from experiments.models.activations import relu
from experiments.models.blocks import BasicBlock
from experiments.models.initializers import kaiming_fan_in
from experiments.models.layers import Network, dense


class CifarResNet(Network):
    """3x3 stem, three stages of `BasicBlock`s with 16, 32, 64 channels, mean, dense layer `fc`.

    Shortcuts that change the shape are projections (1x1 convolution and batch norm), as in the
    reference and unlike the zero-padding of the original paper.

    Initialisation: `N(0, 2 / fan_in)` for all kernels, PyTorch's default for the bias of `fc`.

    Attributes:
      depth: number of layers, 6 n + 2.
    """

    depth: int = 32

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
          ValueError: for a depth that is not 6 n + 2 with n of at least 1.
        """
        super().__post_init__()
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2 (8, 14, 20, 26, 32 ...), got {self.depth}")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits `(batch, num_classes)`, float32.

        Args:
          x: normalised images `(batch, height, width, channels)`.
          train: normalise by the batch and update the running statistics.
        """
        self.check_images(x, stem="conv")
        conv = functools.partial(
            nn.Conv, use_bias=False, kernel_init=kaiming_fan_in, dtype=self.dtype
        )
        norm = self.norm(train)
        x = conv(self.scaled(16), (3, 3), padding=1, name="conv")(x)
        x = relu(norm(name="bn")(x))
        blocks_per_stage = (self.depth - 2) // 6
        for index in range(3 * blocks_per_stage):
            stage, position = divmod(index, blocks_per_stage)
            stride = 2 if stage > 0 and position == 0 else 1
            block = BasicBlock(conv, norm, self.scaled(16 << stage), stride, name=f"blocks_{index}")
            x = block(x)
        x = x.mean((1, 2))
        x = dense(x, self.num_classes, kernel_init=kaiming_fan_in, dtype=self.dtype, name="fc")
        return x.astype("float32")
