"""The rectifier of all networks, in the form that the platform compiles best."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def relu(x: jax.Array) -> jax.Array:
    """Return `max(x, 0)`, NaN where `x` is NaN; its gradient at 0 is 0.

    On CPU it is a selection instead of a maximum. XLA's CPU compiler copies a maximum, and what is
    computed before it, into every consumer that it can fuse with. One is the transposition which
    the filter gradient of the next convolution begins with: its memory order is so bad for the
    copied sums that this alone takes a third of a ResNet's training step, more the deeper the
    network is, for identity shortcuts chain the sums. A selection has two full-size operands and
    is computed once. Values and gradients are the same bits; other platforms keep the maximum.

    Args:
      x: activations of any shape.

    >>> relu(jnp.array([-1.0, 0.0, 2.0])).tolist()
    [0.0, 0.0, 2.0]
    """
    if on_cpu():
        return jnp.where(x <= 0, jnp.zeros_like(x), x)
    return nn.relu(x)


def on_cpu() -> bool:
    """Return whether JAX computes on CPU by default; asked while tracing."""
    return jax.default_backend() == "cpu"
