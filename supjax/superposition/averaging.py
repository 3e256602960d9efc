"""The arithmetic of running means over pytrees."""

from typing import Any

import jax
import jax.numpy as jnp

from supjax.types import PyTree, Scalar


def mean_leaf(old: jax.Array, new: jax.Array, share: Scalar) -> jax.Array:
    """Return `(1 - share) old + share new`, computed in float32 or wider, in the dtype of `old`.

    Equal entries come back unchanged and a half share is symmetric, both to the last bit.
    Integers (step counters) are rounded, half up; only their difference meets a float.

    >>> import jax.numpy as jnp
    >>> mean_leaf(jnp.array([1.0, 2.0]), jnp.array([3.0, 2.0]), 0.5)
    Array([2., 2.], dtype=float32)
    """
    old, new = jnp.asarray(old), jnp.asarray(new)
    wide = jnp.promote_types(old.dtype, jnp.float32)
    share = jnp.asarray(share, wide)
    if jnp.issubdtype(old.dtype, jnp.integer):
        signed = f"int{8 * old.dtype.itemsize}"  # so that an unsigned counter may shrink
        change = jnp.floor(share * (new - old).astype(signed) + 0.5)
        return old + change.astype(signed).astype(old.dtype)
    first, second = old.astype(wide), new.astype(wide)
    mixed = jnp.where(first == second, first, (1 - share) * first + share * second)
    return mixed.astype(old.dtype)


def running_mean(running: PyTree, new: PyTree, share: Scalar) -> PyTree:
    """Fold one more tree into a running mean: `running + share (new - running)` leaf by leaf.

    Args:
      running: the mean so far.
      new: a tree of the same structure and shapes.
      share: weight of `new` in the result, in [0, 1]; `1/t` for the t-th of equal members.

    Returns:
      The new mean, with the dtypes of `running`.

    >>> import jax.numpy as jnp
    >>> running_mean({"w": jnp.zeros(1)}, {"w": jnp.ones(1)}, 0.25)
    {'w': Array([0.25], dtype=float32)}
    """

    def fold(old: Any, leaf: Any) -> jax.Array:
        return mean_leaf(old, leaf, share)

    return jax.tree.map(fold, running, new)
