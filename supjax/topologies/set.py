"""SET: drop the smallest weights, grow at random."""

from typing import Unpack

from supjax.checks import check_count
from supjax.prune_grow import magnitude, random_scores
from supjax.schedules import cosine_fraction
from supjax.topologies.engine import Shared, Start, dynamic, method
from supjax.types import Schedule, TopologyTransform


@method
def set(density: float, **shared: Unpack[Shared]) -> TopologyTransform:
    """Return sparse evolutionary training: drop by `|w|`, grow uniformly at random.

    The authors' code of Sup-tickets grows by gradient under this name on CIFAR; this is random,
    as published.

    Args:
      density: share of kept weights over all maskable ones, in (0, 1].
      **shared: see `Shared`.

    Returns:
      A `TopologyTransform`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Mocanu et al., Nature Communications 9, 2018, algorithm 2 (zeta = 0.3).

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> method, params = set(0.5), {"w": jnp.ones((2, 2))}
    >>> state = method.init(jax.random.key(0), params)
    >>> state = method.update(jax.random.key(1), params, state, params, step=0)
    >>> supjax.density(state.masks)
    0.5
    """
    return dynamic(
        density,
        drop_scores=lambda key, params, grads, masks: magnitude(params, masks),
        grow_scores=lambda key, params, grads, masks: random_scores(key, masks),
        dense_gradient="never",
        **shared,
    )


@method
def set_itop(
    density: float,
    *,
    stop: int,
    update_every: int = 1500,
    drop_fraction: float | Schedule = 0.5,
    **shared: Unpack[Start],
) -> TopologyTransform:
    """Return SET with the settings of in-time over-parameterization: rare, large updates.

    The drop fraction decays from `drop_fraction` to 0 at `stop` as a cosine.

    Args:
      density: see `set`.
      stop: last step of the decay; no update from there on.
      update_every: steps between updates; 1500 in the paper.
      drop_fraction: fraction at step 0; 0.5 in the paper.
      **shared: see `Shared`.

    Returns:
      A `TopologyTransform`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Liu et al., *Do We Actually Need Dense Over-Parameterization?*, ICML 2021, section 4.

    >>> float(set_itop(0.1, stop=3000).drop_fraction(1500))
    0.25
    """
    if not callable(drop_fraction):
        drop_fraction = cosine_fraction(drop_fraction, check_count(stop, "stop"))
    return set(density, drop_fraction=drop_fraction, update_every=update_every, stop=stop, **shared)
