"""Fully connected networks: LeNet-300-100 and its like."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.models.activations import relu
from experiments.models.layers import Network, dense, flatten_channels_first


class MLP(Network):
    """Dense layers with ReLU, `fc1` to `fcN`; no batch norm, so `train` changes nothing.

    Initialisation: PyTorch's default for all kernels and biases.

    Attributes:
      hidden: units of the hidden layers.
    """

    hidden: Sequence[int] = (300, 100)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits `(batch, num_classes)`, float32.

        Args:
          x: normalised images `(batch, height, width, channels)`.
          train: has no effect.
        """
        del train
        self.check_images(x)
        x = flatten_channels_first(x)
        for index, units in enumerate(self.hidden, 1):
            x = relu(dense(x, self.scaled(units), dtype=self.dtype, name=f"fc{index}"))
        last = f"fc{len(self.hidden) + 1}"
        return dense(x, self.num_classes, dtype=self.dtype, name=last).astype("float32")
