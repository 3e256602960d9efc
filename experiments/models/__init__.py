"""The networks by name: `create_model("vgg16", num_classes=10)`."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from experiments.models.blocks import BasicBlock
from experiments.models.cifar_resnet import CifarResNet
from experiments.models.layers import Network
from experiments.models.mlp import MLP
from experiments.models.resnet import ImageNetResNet, ResNet
from experiments.models.small_cnn import DigitsCNN, LeNet5
from experiments.models.vgg import VGG16, VGG19
from experiments.models.wide_resnet import WideResNet
from supjax.checks import KNOWN, some

_NETWORKS: dict[str, tuple[type[Network], dict[str, Any]]] = {
    "digits_cnn": (DigitsCNN, {}),
    "imagenet_resnet101": (ImageNetResNet, {"stage_sizes": (3, 4, 23, 3)}),
    "imagenet_resnet18": (ImageNetResNet, {"stage_sizes": (2, 2, 2, 2), "block": BasicBlock}),
    "imagenet_resnet34": (ImageNetResNet, {"stage_sizes": (3, 4, 6, 3), "block": BasicBlock}),
    "imagenet_resnet50": (ImageNetResNet, {"stage_sizes": (3, 4, 6, 3)}),
    "lenet5": (LeNet5, {}),
    "lenet_300_100": (MLP, {"hidden": (300, 100)}),
    "mlp": (MLP, {"hidden": (1024, 512)}),
    "resnet18": (ResNet, {"stage_sizes": (2, 2, 2, 2), "block": BasicBlock}),
    "resnet20": (CifarResNet, {"depth": 20}),
    "resnet32": (CifarResNet, {"depth": 32}),
    "resnet34": (ResNet, {"stage_sizes": (3, 4, 6, 3), "block": BasicBlock}),
    "resnet50": (ResNet, {"stage_sizes": (3, 4, 6, 3)}),
    "resnet56": (CifarResNet, {"depth": 56}),
    "vgg16": (VGG16, {}),
    "vgg19": (VGG19, {}),
    "wrn16_8": (WideResNet, {"depth": 16, "widen_factor": 8}),
    "wrn22_2": (WideResNet, {"depth": 22, "widen_factor": 2}),
    "wrn28_10": (WideResNet, {"depth": 28, "widen_factor": 10}),
}

MODEL_NAMES = tuple(sorted(_NETWORKS))
"""All names that `create_model` knows, sorted."""


def create_model(
    name: str,
    num_classes: int,
    *,
    width: float = 1.0,
    dtype: Any = jnp.float32,
    **options: Any,
) -> Network:
    """Return a network by name; called as `network.apply(variables, images, train=...)`.

    Images are channels last, logits float32; parameters and running statistics are float32
    whatever `dtype` is.

    Args:
      name: one of `MODEL_NAMES`.
      num_classes: number of logits.
      width: factor on all channel counts.
      dtype: of the computation, such as `jnp.bfloat16`.
      **options: other fields of the network: `bn_momentum`, `axis_name`, and what its class adds,
        such as `depth`.

    Returns:
      A linen module.

    Raises:
      ValueError: for a name or an option that does not exist, or a field out of range.

    >>> create_model("resnet20", 10, width=0.5).depth
    20
    """
    if name not in _NETWORKS:
        raise ValueError(f"unknown network {name!r}; known are {some(MODEL_NAMES, KNOWN)}")
    network, preset = _NETWORKS[name]
    known = {field.name for field in dataclasses.fields(network)} - {"parent", "name"}
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"{name} has no option {unknown[0]!r}; it has {some(sorted(known), KNOWN)}"
        )
    return network(num_classes=num_classes, width=width, dtype=dtype, **preset | options)
