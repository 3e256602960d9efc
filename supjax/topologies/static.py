"""Masks that never move: a random sparse network, and the dense one."""

from supjax.schedules import constant_fraction, never
from supjax.topologies.engine import keep_masks, random_start
from supjax.types import LeafFilter, TopologyTransform


def static(
    density: float, *, distribution: str = "erk", filter_fn: LeafFilter | None = None
) -> TopologyTransform:
    """Return static sparse training: random masks at the start, never updated.

    An exploration asked for by the cyclic phase changes nothing either: there is no grow rule.

    Args:
      density: share of kept weights over all maskable ones, in (0, 1].
      distribution: "erk" or "uniform".
      filter_fn: which leaves are sparse; default: kernels with 2 or 4 dimensions.

    Returns:
      A `TopologyTransform`.

    Raises:
      ValueError: if density or distribution is not allowed.

    Source: Liu et al., *The Unreasonable Effectiveness of Random Pruning*, ICLR 2022.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> state = static(0.25).init(jax.random.key(0), {"kernel": jnp.ones((4, 4))})
    >>> supjax.density(state.masks)
    0.25
    """
    init = random_start(density, distribution, filter_fn)
    return TopologyTransform(init, keep_masks, never, constant_fraction(0.0))


def dense(*, filter_fn: LeafFilter | None = None) -> TopologyTransform:
    """Return dense training in the same clothes: masks that keep everything.

    Args:
      filter_fn: which leaves carry a mask.

    Returns:
      A `TopologyTransform` whose density is 1.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> state = dense().init(jax.random.key(0), {"kernel": jnp.ones((4, 4))})
    >>> supjax.density(state.masks)
    1.0
    """
    return static(1.0, filter_fn=filter_fn)
