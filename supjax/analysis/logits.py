"""Checks of predictions and labels."""

from typing import Any

import jax
import jax.numpy as jnp

from supjax.checks import some


def check_logits(logits: Any, ndim: int = 2) -> jax.Array:
    """Return logits as an array, or raise one clear line.

    Args:
      logits: unnormalised log-probabilities, `(examples, classes)`, or
        `(members, examples, classes)` for `ndim=3`.
      ndim: number of axes expected.

    Returns:
      The array, at least float32.

    Raises:
      TypeError: not floating-point.
      ValueError: another number of axes, or an empty axis.

    >>> check_logits(jnp.zeros(3))
    Traceback (most recent call last):
      ...
    ValueError: logits must have shape (examples, classes), none of them 0, got (3,)
    """
    logits = jnp.asarray(logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating-point, got {logits.dtype}")
    if logits.ndim != ndim or 0 in logits.shape:
        axes = ("members", "examples", "classes")[-ndim:]
        raise ValueError(
            f"logits must have shape ({some(axes)}), none of them 0, got {logits.shape}"
        )
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def check_labels(labels: Any, logits: jax.Array) -> jax.Array:
    """Return labels as an array, or raise unless they are one integer for each example.

    >>> check_labels(jnp.zeros(3, int), jnp.zeros((2, 5)))
    Traceback (most recent call last):
      ...
    ValueError: labels must have shape (2,) as the logits have 2 examples, got (3,)
    """
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must have shape {logits.shape[:1]} as the logits have {logits.shape[0]} "
            f"examples, got {labels.shape}"
        )
    return labels
