"""VGG networks (Simonyan and Zisserman 2015) with batch norm, in their forms for CIFAR."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from experiments.models.activations import relu
from experiments.models.initializers import kaiming_fan_out, normal, torch_bias, torch_kernel
from experiments.models.layers import Network, dense, flatten_channels_first
from experiments.models.windows import convolve, max_pool

POOL = 0
"""Marks a 2x2 max-pool among the channel counts of a plan."""

VGG16_PLAN = (64, 64, POOL, 128, 128, POOL, *(256,) * 3, POOL, *(512,) * 3, POOL, *(512,) * 3, POOL)
VGG19_PLAN = (64, 64, POOL, 128, 128, POOL, *(256,) * 4, POOL, *(512,) * 4, POOL, *(512,) * 4)


def _features(
    x: jax.Array,
    plan: Sequence[int],
    conv: Callable[..., nn.Module],
    norm: Callable[..., nn.Module],
    prefix: str,
    train: bool,
) -> jax.Array:
    """Return the activations behind a plan's 3x3 convolutions, each with batch norm and ReLU.

    Layers are named by their place in the reference's `nn.Sequential`, where ReLU and max-pool
    count as well.
    """
    place = 0
    for channels in plan:
        if channels == POOL:
            x = max_pool(x)
            place += 1
        else:
            bias_init = torch_bias(9 * x.shape[-1])
            layer = conv(channels, (3, 3), padding=1, bias_init=bias_init, name=f"{prefix}_{place}")
            # Evaluation keeps the plain form, in which operations are counted.
            x = convolve(layer, x) if train else layer(x)
            x = relu(norm(name=f"{prefix}_{place + 1}")(x))
            place += 3
    return x


class VGG16(Network):
    """SNIP's "VGG-like": 13 convolutions with bias, 512 hidden units, classifier.

    The hidden layer is followed by ReLU, then batch norm. Five max-pools leave one pixel, so images
    have 32 to 63 pixels a side.

    Initialisation: PyTorch's default for all kernels and biases, as the reference leaves it.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits `(batch, num_classes)`, float32.

        Args:
          x: normalised images `(batch, height, width, channels)`.
          train: normalise by the batch and update the running statistics.
        """
        self.check_images(x, stem="features_0", smallest=32, largest=63)
        plan = [channels and self.scaled(channels) for channels in VGG16_PLAN]
        conv = functools.partial(nn.Conv, kernel_init=torch_kernel, dtype=self.dtype)
        norm = self.norm(train)
        x = flatten_channels_first(_features(x, plan, conv, norm, "features", train))
        x = dense(x, self.scaled(512), dtype=self.dtype, name="classifier_0")
        x = norm(name="classifier_2")(relu(x))
        x = dense(x, self.num_classes, dtype=self.dtype, name="classifier_3")
        return x.astype("float32")


class VGG19(Network):
    """16 convolutions without bias, four max-pools, mean over what is left, one dense layer.

    Initialisation: `N(0, 2 / fan_out)` for convolutions, `N(0, 0.01²)` for the classifier, whose
    bias starts at 0.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits `(batch, num_classes)`, float32.

        Args:
          x: normalised images `(batch, height, width, channels)`.
          train: normalise by the batch and update the running statistics.
        """
        self.check_images(x, stem="feature_0", smallest=16)
        plan = [channels and self.scaled(channels) for channels in VGG19_PLAN]
        conv = functools.partial(
            nn.Conv, use_bias=False, kernel_init=kaiming_fan_out, dtype=self.dtype
        )
        x = _features(x, plan, conv, self.norm(train), "feature", train).mean((1, 2))
        classifier = nn.Dense(
            self.num_classes,
            kernel_init=normal(0.01),
            dtype=self.dtype,
            name="classifier",
        )
        return classifier(x).astype("float32")
