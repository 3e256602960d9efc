"""Small networks with batch norm, for the tests of its statistics."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

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


class MixedNet(nn.Module):
    """A frozen norm and a spectral norm between two norms that train."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(not train, momentum=0.99, name="first")(x)
        x = nn.BatchNorm(True, name="frozen")(x)
        x = nn.SpectralNorm(nn.Dense(3), name="spectral")(x, update_stats=train)
        return nn.BatchNorm(not train, momentum=0.9, name="last")(x)


class NnxNet(nnx.Module):
    """Dropout before a frozen norm and one that trains."""

    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.frozen = nnx.BatchNorm(4, rngs=rngs)
        self.linear = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.95, rngs=rngs)

    def __call__(self, x, scale=1.0):
        return self.norm(self.linear(self.frozen(self.dropout(x * scale))))


def haiku_average(state, value, decay):
    """`hk.ExponentialMovingAverage(decay)`, without bias from its start at zero."""
    counter = state["counter"] + 1
    hidden = jax.lax.stop_gradient(state["hidden"]) * decay + value * (1 - decay)
    average = hidden / (1 - decay**counter)
    return {"hidden": hidden, "average": average, "counter": counter}


def haiku_apply(variables, x):
    """Training mode of a network whose state is named and kept as Haiku does."""
    params, state, new = variables["params"], variables["batch_stats"], {}
    for i in range(2):
        x = x @ params[f"linear_{i}"]["w"]
        for name, moment in (("mean", x.mean(0)), ("var", x.var(0))):
            path = f"norm_{i}/~/{name}_ema"
            new[path] = haiku_average(state[path], moment, 0.9 + 0.09 * i)
        deviation = jnp.sqrt(x.var(0, keepdims=True) + 1e-5)
        x = jax.nn.relu((x - x.mean(0, keepdims=True)) / deviation)
    return x, {"batch_stats": new}
