"""Small networks with batch norm, for the tests of its statistics."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from supjax.types import Ticket


class TorchNorm(nn.Module):
    """Stores the unbiased variance and counts its batches, as PyTorch does."""

    train: bool
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        steps = self.variable("batch_stats", "steps", jnp.zeros, (), jnp.int32)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        axes = tuple(range(x.ndim - 1))
        now = (x.mean(axes), x.var(axes)) if self.train else (mean.value, var.value)
        if self.train and not self.is_initializing():
            n = x.size // x.shape[-1]
            mean.value += (1 - self.momentum) * (now[0] - mean.value)
            var.value += (1 - self.momentum) * (now[1] * n / (n - 1) - var.value)
            steps.value += 1
        channels = (1,) * (x.ndim - 1) + shape
        centred = (x - now[0].reshape(channels)) * jax.lax.rsqrt(now[1].reshape(channels) + 1e-5)
        return centred * scale.reshape(channels) + bias.reshape(channels)


class Net(nn.Module):
    """The small network of the authors' vectors: conv, norm, ReLU, conv, norm."""

    momentum: float = 0.9
    torch: bool = False

    def norm(self, train, name):
        if self.torch:
            return TorchNorm(train, self.momentum, name=name)
        return nn.BatchNorm(not train, momentum=self.momentum, name=name)

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(6, (3, 3), use_bias=False, name="conv1")(x)
        x = nn.relu(self.norm(train, "bn1")(x))
        x = nn.Conv(5, (3, 3), strides=2, padding="VALID", name="conv2")(x)
        return self.norm(train, "bn2")(x)


def training(model):
    """The model as `recompute_batch_stats` takes it."""
    return partial(model.apply, train=True, mutable=["batch_stats"])


def ticket_of(model, x):
    """A fresh dense ticket of the model."""
    variables = model.init(jax.random.key(0), x, train=True)
    params = variables.get("params", {})
    return Ticket(params, jax.tree.map(lambda leaf: None, params), variables["batch_stats"])
