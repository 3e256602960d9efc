"""Weights of the network that the benchmarks take as their workload."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def resnet50_kernels() -> dict[str, tuple[int, ...]]:
    """Kernel shapes of ResNet-50 for ImageNet, in the order of the network.

    There are 54 with 25,502,912 weights.
    """
    kernels: dict[str, tuple[int, ...]] = {"stem": (7, 7, 3, 64)}
    incoming = 64
    stages = [(3, 64, 256), (4, 128, 512), (6, 256, 1024), (3, 512, 2048)]
    for stage, (blocks, inner, outer) in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}/block{block}"
            kernels[f"{name}/conv1"] = (1, 1, incoming, inner)
            kernels[f"{name}/conv2"] = (3, 3, inner, inner)
            kernels[f"{name}/conv3"] = (1, 1, inner, outer)
            if block == 1:
                kernels[f"{name}/shortcut"] = (1, 1, incoming, outer)
            incoming = outer
    kernels["classifier"] = (incoming, 1000)
    return kernels


def kernel_shapes(toy: bool) -> dict[str, tuple[int, ...]]:
    """Kernel shapes of ResNet-50, or of a toy."""
    return {"conv": (3, 3, 4, 8), "head": (8, 10)} if toy else resnet50_kernels()


def random_network(toy: bool, *, dense_parts: bool = True) -> dict[str, dict[str, Any]]:
    """Random kernels.

    Args:
      toy: see `kernel_shapes`.
      dense_parts: whether each has a scale and a bias, which stay dense.
    """
    generator = np.random.default_rng(0)

    def layer(shape: tuple[int, ...]) -> dict[str, Any]:
        kernel = {"kernel": jnp.asarray(generator.standard_normal(shape, np.float32))}
        rest = {"scale": jnp.ones(shape[-1]), "bias": jnp.zeros(shape[-1])}
        return kernel | rest if dense_parts else kernel

    return {name: layer(shape) for name, shape in kernel_shapes(toy).items()}
