"""Small convolutional networks for handwritten digits."""

import flax.linen as nn
import jax

from experiments.models.activations import relu
from experiments.models.initializers import kaiming_fan_in, torch_bias, torch_kernel
from experiments.models.layers import Network, dense, flatten_channels_first
from experiments.models.windows import max_pool


class DigitsCNN(Network):
    """3x3 convolutions with 16, 32 and 64 channels, batch norm, ReLU; dense layer `fc`.

    For 8x8x1 and 28x28x1 images (any size from 4x4 on): a 2x2 max-pool follows each of the first
    two convolutions, so `fc` sees 2x2 or 7x7 pixels.

    Initialisation: `N(0, 2 / fan_in)` for convolutions, PyTorch's default for `fc`.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits `(batch, num_classes)`, float32.

        Args:
          x: normalised images `(batch, height, width, channels)`.
          train: normalise by the batch and update the running statistics.
        """
        self.check_images(x, stem="conv1", smallest=4)
        norm = self.norm(train)
        for layer in (1, 2, 3):
            conv = nn.Conv(
                self.scaled(8 << layer),
                (3, 3),
                padding=1,
                use_bias=False,
                kernel_init=kaiming_fan_in,
                dtype=self.dtype,
                name=f"conv{layer}",
            )
            x = relu(norm(name=f"bn{layer}")(conv(x)))
            if layer < 3:
                x = max_pool(x)
        x = flatten_channels_first(x)
        return dense(x, self.num_classes, dtype=self.dtype, name="fc").astype("float32")


class LeNet5(Network):
    """LeNet-5 in Caffe's form: two unpadded 5x5 convolutions with max-pools, 500 hidden units.

    For 28x28x1 images; no batch norm, so `train` changes nothing.

    Initialisation: PyTorch's default for all kernels and biases.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits `(batch, num_classes)`, float32.

        Args:
          x: normalised images `(batch, height, width, channels)`.
          train: has no effect.
        """
        del train
        self.check_images(x, stem="conv1", smallest=16)
        for channels, name in ((20, "conv1"), (50, "conv2")):
            conv = nn.Conv(
                self.scaled(channels),
                (5, 5),
                padding="VALID",
                kernel_init=torch_kernel,
                bias_init=torch_bias(25 * x.shape[-1]),
                dtype=self.dtype,
                name=name,
            )
            x = max_pool(relu(conv(x)))
        x = flatten_channels_first(x)
        x = relu(dense(x, self.scaled(500), dtype=self.dtype, name="fc3"))
        return dense(x, self.num_classes, dtype=self.dtype, name="fc4").astype("float32")
