"""Two networks on the same examples: what of a difference between their losses is noise."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Paired(NamedTuple):
    """A difference of mean losses on the same examples.

    Attributes:
      difference: mean loss of the first minus that of the second, shape ().
      standard_error: of that difference, shape (); 0 for equal losses, NaN for a single example.

    >>> Paired._fields
    ('difference', 'standard_error')
    """

    difference: jax.Array
    standard_error: jax.Array


def check_losses(losses: Any, name: str = "losses") -> jax.Array:
    """Return losses as an array, or raise unless they are one number an example.

    >>> check_losses(0.3)
    Traceback (most recent call last):
      ...
    ValueError: losses must have shape (examples,), one loss each, got ()
    """
    losses = jnp.asarray(losses)
    if losses.ndim != 1 or not losses.size:
        raise ValueError(f"{name} must have shape (examples,), one loss each, got {losses.shape}")
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating-point, got {losses.dtype}")
    return losses.astype(jnp.promote_types(losses.dtype, jnp.float32))


def paired_difference(first: Any, second: Any) -> Paired:
    """Return the mean of `first - second` and its standard error, `sd(first - second) / sqrt(n)`.

    The examples that are hard for both networks are hard in both losses and cancel, so that this
    error is a fraction of that of either mean.

    Args:
      first: losses of one network, one an example, `(examples,)`.
      second: those of the other one, for the same examples.

    Returns:
      A `Paired`.

    Raises:
      ValueError: the shapes differ, or are not `(examples,)`.
      TypeError: not floating-point.

    >>> found = paired_difference(jnp.array([1.0, 3.0, 2.0]), jnp.array([1.0, 1.0, 1.0]))
    >>> float(found.difference), round(float(found.standard_error), 4)  # 0, 2, 1: deviation 1
    (1.0, 0.5774)
    """
    first, second = check_losses(first, "first"), check_losses(second, "second")
    if first.shape != second.shape:
        raise ValueError(f"losses differ in shape: {first.shape} and {second.shape}")
    each = first - second
    mean = jnp.mean(each)
    spread = jnp.sum((each - mean) ** 2) / (each.size - 1 if each.size > 1 else jnp.nan)
    return Paired(mean, jnp.sqrt(spread / each.size))
