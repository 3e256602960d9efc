"""Every kind of network, tiny, with one compiled run of it for all tests to look at."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import create_model

STAGES = (1, 1, 1, 1)
# name: (options, image shape)
TINY = {
    "digits_cnn": ({"width": 0.25}, (8, 8, 1)),
    "imagenet_resnet18": ({"width": 1 / 16, "stage_sizes": STAGES}, (32, 32, 3)),
    "imagenet_resnet50": ({"width": 1 / 16, "stage_sizes": STAGES}, (32, 32, 3)),
    "lenet5": ({"width": 0.2}, (28, 28, 1)),
    "mlp": ({"width": 1 / 16}, (4, 4, 3)),
    "resnet18": ({"width": 1 / 16, "stage_sizes": STAGES}, (16, 16, 3)),
    "resnet20": ({"width": 0.25, "depth": 8}, (16, 16, 3)),
    "resnet50": ({"width": 1 / 16, "stage_sizes": STAGES}, (16, 16, 3)),
    "vgg16": ({"width": 1 / 16}, (32, 32, 3)),
    "vgg19": ({"width": 1 / 16}, (32, 32, 3)),
    "wrn16_8": ({"width": 0.25, "depth": 10, "widen_factor": 2}, (16, 16, 3)),
}


class TinyNetwork(NamedTuple):
    """A network, its inputs, and statistics after a batch under four settings.

    Attributes:
      evaluated: statistics after `train=False`.
      trained: after `train=True`.
      exposed: after `train=True` with `bn_momentum=0`.
      half: logits and statistics after `train=True` in bfloat16.
    """

    model: nn.Module
    images: jax.Array
    variables: Any
    evaluated: Any
    trained: Any
    exposed: Any
    half: tuple[jax.Array, Any]


@functools.cache
def tiny_network(name):
    options, image_shape = TINY[name]
    model = create_model(name, 5, **options)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((8, *image_shape)), jnp.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 0.3, leaf.shape), leaf.dtype), shapes
    )

    @jax.jit
    def run(variables):
        def apply(model, train):
            logits, updates = model.apply(variables, images, train=train, mutable=["batch_stats"])
            return logits, updates.get("batch_stats", {})

        return (
            apply(model, False)[1],
            apply(model, True)[1],
            apply(model.clone(bn_momentum=0.0), True)[1],
            apply(model.clone(dtype=jnp.bfloat16), True),
        )

    return TinyNetwork(model, images, variables, *run(variables))


@pytest.fixture(params=sorted(TINY))
def tiny(request):
    return tiny_network(request.param)
