"""Masks that never move: a random sparse network, and the dense one."""

from supjax.topologies.engine import fixed, method, random_start
from supjax.types import AxesFn, LeafFilter, TopologyTransform


@method
def static(
    density: float,
    *,
    distribution: str = "erk",
    filter_fn: LeafFilter | None = None,
    axes_fn: AxesFn | None = None,
) -> TopologyTransform:
    """Return static sparse training: random masks at the start, never updated.

    There is no grow rule: `exploring` lends one to the explorations of the cyclic phase.

    Args:
      density: share of kept weights over all maskable ones, in (0, 1].
      distribution: "erk" or "uniform".
      filter_fn: which leaves are sparse; default: `supjax.filters.kernels`.
      axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults.

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
    init = random_start(density, distribution, filter_fn, axes_fn)
    return fixed(init, density, axes_fn)


@method
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
    # Where nothing is absent there is nothing to explore either.
    return static(1.0, filter_fn=filter_fn)._replace(grows=True, dense_gradient="always")
