"""The least time that arithmetic and memory allow for each main figure, on this machine.

    python -m benchmarks.floor [--toy] [--output runs/benchmarks/floor.json]

Two ceilings are measured: the rate of a large matrix product and of a large copy. A figure's two
floors are its operations over the one and its bytes over the other; no program that does the same
work on this machine takes less than the larger of them. What is counted:

- a training step: three forward passes of the dense network (the arrays are dense), and every
  product's result written and read once going forward and, with its gradient, once going back;
  weights, gradients and momentum as in an update of masked weights;
- superposition, an update of the masks and a selection: every array in is read once, every array
  out is written once.

About a minute on 2 CPU cores.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from benchmarks.common import Timing, print_table, time_interleaved, write_json
from benchmarks.shapes import resnet50_kernels
from experiments.models import create_model
from supjax.analysis import forward_flops

FLOAT, MASK = 4, 1
"""Bytes."""


class Work(NamedTuple):
    """What has to be done at least.

    Attributes:
      operations: multiplications plus additions of matrix products and convolutions.
      bytes: read and written.
    """

    operations: float
    bytes: float


def training_step(name: str, classes: int, side: int, batch: int, width: float = 1.0) -> Work:
    """Return the least work of a step of SGD with momentum on masked weights.

    Args:
      name: of the network.
      classes: number of logits.
      side: pixels a side of the images.
      batch: images in a step.
      width: factor on all channel counts.
    """
    model = create_model(name, classes, width=width)
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    params = variables.pop("params")

    def forward(params: Any, stats: Any, images: Any) -> Any:
        return model.apply({"params": params, **stats}, images, train=False)

    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    results = product_results(jax.make_jaxpr(forward)(params, variables, images).jaxpr)
    # Forward: written, read. Back: the result read again, its gradient written and read.
    activations = FLOAT * results * 5
    # Weights: read forward and back, read and written by the update; gradient written and read;
    # momentum read and written; masks read.
    update = weights * (FLOAT * 8 + MASK)
    return Work(3 * forward_flops(forward, params, variables, images), activations + update)


def product_results(jaxpr: core.Jaxpr) -> int:
    """Return how many numbers all convolutions and matrix products of a program give."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            total += equation.outvars[0].aval.size  # type: ignore[attr-defined]
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += product_results(inner)
    return total


def array_works(weights: int) -> dict[str, Work]:
    """Return the least work of the functions on whole networks.

    Args:
      weights: maskable weights of the network.
    """
    ticket = weights * (FLOAT + MASK)
    return {
        "selection": Work(0, weights * (FLOAT + MASK)),
        # Weights, momentum, gradient and mask in; weights, momentum and mask out.
        "mask update": Work(0, weights * (5 * FLOAT + 2 * MASK)),
        "superpose 4 tickets": Work(0, (4 + 1) * ticket),
    }


def works(toy: bool) -> dict[str, Work]:
    """Return the work of every main figure."""
    if toy:
        return {
            "ResNet-20, 2 images": training_step("resnet20", 10, 32, 2, 0.125),
            **array_works(1_000),
        }
    return {
        "ResNet-32, 128 images": training_step("resnet32", 10, 32, 128),
        "VGG-16, 128 images": training_step("vgg16", 10, 32, 128),
        "ResNet-50 for CIFAR, 64 images": training_step("resnet50", 10, 32, 64),
        "ImageNet ResNet-50, 32 images": training_step("imagenet_resnet50", 1000, 224, 32),
        **array_works(sum(map(math.prod, resnet50_kernels().values()))),
    }


def ceilings(toy: bool) -> dict[str, tuple[float, Timing]]:
    """Return `name -> (rate, timing)`: operations a second of a product, bytes of a copy."""
    side, size = (64, 1 << 12) if toy else (2048, 1 << 27)
    matrix, array = jnp.ones((side, side)), jnp.ones(size)
    product = jax.jit(jnp.matmul)
    add_one = jax.jit(lambda array: array + 1, donate_argnums=0)

    def copy() -> jax.Array:  # in place: fresh memory would be measured otherwise
        nonlocal array
        array = add_one(array)
        return array

    work = {"matrix product": 2.0 * side**3, "copy": 2.0 * FLOAT * size}
    functions = {"matrix product": lambda: product(matrix, matrix), "copy": copy}
    times = time_interleaved(functions, *((3, 0.1) if toy else (30, 15.0)))
    return {name: (work[name] / timing.least, timing) for name, timing in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the ceilings, print the floors and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor")
    parser.add_argument("--toy", action="store_true", help="small arrays, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/floor.json"))
    flags = parser.parse_args(arguments)
    rates = ceilings(flags.toy)
    (arithmetic, _), (copying, _) = rates["matrix product"], rates["copy"]
    print(
        f"Ceilings: {arithmetic / 1e9:.1f} GFLOP/s in a product, {copying / 1e9:.1f} GB/s copying"
    )
    floors = {
        name: {
            "operations": work.operations,
            "bytes": work.bytes,
            "arithmetic_seconds": work.operations / arithmetic,
            "memory_seconds": work.bytes / copying,
        }
        for name, work in works(flags.toy).items()
    }
    print_table(
        ["", "GFLOP", "arithmetic, ms", "MB", "memory, ms"],
        [
            [
                name,
                f"{floor['operations'] / 1e9:.4g}",
                f"{1e3 * floor['arithmetic_seconds']:.4g}",
                f"{floor['bytes'] / 1e6:.4g}",
                f"{1e3 * floor['memory_seconds']:.4g}",
            ]
            for name, floor in floors.items()
        ],
    )
    measured = {name: {"rate": rate, **timing._asdict()} for name, (rate, timing) in rates.items()}
    write_json(flags.output, {"ceilings": measured, "floors": floors})


if __name__ == "__main__":
    main()
