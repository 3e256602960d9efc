"""A rule of averaging that has a state of its own, as somebody would add it."""

import jax
import jax.numpy as jnp

from supjax.superposition.averaging import mean_leaf
from supjax.superposition.engine import Density, pruned_mean
from supjax.types import Superposition


def counting_mean(running, ticket, kept, share, weight):
    """CIA in which a weight that was kept n times moves by 1 / (n + 1)."""

    def slower(old, new, times):
        if times is None:
            return mean_leaf(old, new, share)
        return mean_leaf(old, new, weight / (times + weight))

    return jax.tree.map(slower, running, ticket.params, kept)


def first_kept(masks, weight):
    return jax.tree.map(lambda m: weight * jnp.ones(m.shape, jnp.float32), masks)


def next_kept(kept, folded, ticket, weight):
    del ticket
    return jax.tree.map(lambda times, mask: jnp.where(mask, times + weight, 0.0), kept, folded)


def counting(*, density: Density = None, scope: str = "global") -> Superposition:
    """CIA with a per-weight count of how often it was kept: all of a new rule's file."""
    return pruned_mean(
        counting_mean, density=density, scope=scope, first_extra=first_kept, next_extra=next_kept
    )
