"""Weights of small networks of several frameworks, as shapes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

SEQUENCE = jax.ShapeDtypeStruct((2, 16, 32), jnp.float32)


def shaped(**shapes: Any) -> dict[str, Any]:
    """Return nested dicts of weights without values; dots in names stand for slashes."""
    return {
        name.replace(".", "/"): shaped(**shape)
        if isinstance(shape, dict)
        else jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in shapes.items()
    }


def linen_params(module: nn.Module, *inputs: Any) -> Any:
    """Return the shapes of a linen module's weights."""
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


class Block(nn.Module):
    """A pre-norm block of a Transformer, in the form that `nn.scan` takes."""

    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Any, _: Any = None) -> tuple[Any, None]:
        """Return the block's output and nothing to stack."""
        y = nn.LayerNorm(name="norm")(x)
        attention = nn.MultiHeadDotProductAttention(
            num_heads=4, use_bias=self.use_bias, name="attention"
        )
        x = x + attention(y)
        y = nn.gelu(nn.Dense(64, use_bias=self.use_bias, name="up")(x))
        return x + nn.Dense(32, use_bias=self.use_bias, name="down")(y), None


class Stacked(nn.Module):
    """Three blocks along the first axis or another one, or one by one, and a head."""

    use_bias: bool = True
    scanned: bool = True
    axis: int = 0

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Return logits."""
        if self.scanned:
            stack = nn.scan(
                Block, variable_axes={"params": self.axis}, split_rngs={"params": True}, length=3
            )
            x, _ = stack(self.use_bias, name="blocks")(x, None)
        else:
            for i in range(3):
                x, _ = Block(self.use_bias, name=f"block{i}")(x)
        return nn.Dense(10, name="head")(x)


class Pair(nnx.Module):
    """A norm and two linear layers of flax.nnx."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 8, use_bias=False, rngs=rngs)


def vmapped_pairs() -> Any:
    """Return the weights of three `Pair`s, stacked by `nnx.vmap`."""
    make = nnx.split_rngs(splits=3)(nnx.vmap(lambda rngs: Pair(rngs)))
    return nnx.state(make(nnx.Rngs(0)), nnx.Param)


ATTENTION_KERNELS = {f"{name}/kernel" for name in ("query", "key", "value", "out")}
PROJECTION = ((), (0,), (1, 2))
OUTPUT = ((), (0, 1), (2,))
ATTENTION_AXES = {f"{name}/kernel": PROJECTION for name in ("query", "key", "value")} | {
    "out/kernel": OUTPUT
}
STACKED_KERNELS = {f"blocks/attention/{name}" for name in ATTENTION_KERNELS} | {
    "blocks/up/kernel",
    "blocks/down/kernel",
    "head/kernel",
}
STACK = ((0,), (), ())
STACKED_AXES = {f"blocks/{name}/kernel": STACK for name in ("up", "down")} | {
    f"blocks/attention/{path}": (
        (0,),
        tuple(i + 1 for i in inputs),
        tuple(i + 1 for i in outputs),
    )
    for path, (_, inputs, outputs) in ATTENTION_AXES.items()
}

NETWORKS: dict[str, tuple[Any, set[str], dict[str, Any]]] = {
    "linen attention": (
        lambda: linen_params(nn.MultiHeadDotProductAttention(num_heads=4), SEQUENCE),
        ATTENTION_KERNELS,
        ATTENTION_AXES,
    ),
    "linen attention without biases": (
        lambda: linen_params(
            nn.MultiHeadDotProductAttention(num_heads=4, use_bias=False), SEQUENCE
        ),
        ATTENTION_KERNELS,
        ATTENTION_AXES,
    ),
    "nnx attention": (
        lambda: nnx.state(nnx.MultiHeadAttention(4, 32, rngs=nnx.Rngs(0)), nnx.Param),
        ATTENTION_KERNELS,
        ATTENTION_AXES,
    ),
    "linen scan": (lambda: linen_params(Stacked(), SEQUENCE), STACKED_KERNELS, STACKED_AXES),
    "linen scan without biases": (
        lambda: linen_params(Stacked(use_bias=False), SEQUENCE),
        STACKED_KERNELS,
        STACKED_AXES,
    ),
    "nnx vmap": (
        vmapped_pairs,
        {"up/kernel", "down/kernel"},
        {"up/kernel": STACK, "down/kernel": STACK},
    ),
    "convolution of one dimension": (
        lambda: linen_params(nn.Conv(8, (3,)), jnp.ones((1, 9, 4))),
        {"kernel"},
        {},
    ),
    "convolution of three dimensions": (
        lambda: linen_params(nn.Conv(8, (3, 3, 3)), jnp.ones((1, 9, 9, 9, 4))),
        {"kernel"},
        {},
    ),
    "embedding": (
        lambda: linen_params(nn.Embed(100, 8), jnp.ones(1, int)),
        {"embedding"},
        {},
    ),
    "haiku": (
        lambda: shaped(
            **{
                "net/~/linear": {"w": (8, 16), "b": (16,)},
                "net/~/conv2_d": {"w": (3, 3, 4, 8), "b": (8, 1, 1)},
                "net/~/layer_norm": {"scale": (16,), "offset": (16,)},
                "net/~/batch_norm": {"scale": (1, 1, 1, 8), "offset": (1, 1, 1, 8)},
            }
        ),
        {"net/~/linear/w", "net/~/conv2_d/w"},
        {},
    ),
    "equinox": (
        lambda: {
            "layers": [shaped(weight=(16, 8), bias=(16,)), shaped(weight=(8,), bias=(8,))],
            "stack": shaped(weight=(3, 16, 8), bias=(3, 16)),
            "conv": shaped(weight=(8, 4, 3), bias=(8, 1)),
            "norms": shaped(weight=(3, 8), bias=(3, 8)),
        },
        {"layers/0/weight", "stack/weight", "conv/weight"},
        {"stack/weight": STACK},
    ),
}
"""Name -> function that makes the weights, paths of the sparse leaves, axes where they are told."""
