"""SET: drop the smallest weights, grow at random."""

from supjax.checks import check_count
from supjax.prune_grow import magnitude, random_scores
from supjax.schedules import cosine_fraction
from supjax.topologies.engine import dynamic
from supjax.types import LeafFilter, Schedule, TopologyTransform


def set(
    density: float,
    *,
    drop_fraction: float | Schedule = 0.3,
    update_every: int = 1000,
    stop: int | None = None,
    distribution: str = "erk",
    filter_fn: LeafFilter | None = None,
) -> TopologyTransform:
    """Return sparse evolutionary training: drop by `|w|`, grow uniformly at random.

    The authors' code of Sup-tickets grows by gradient under this name on CIFAR; this is random,
    as published.

    Args:
      density: share of kept weights over all maskable ones, in (0, 1].
      drop_fraction: share of every layer's active weights to move, a number or `step -> share`.
      update_every: steps Delta T between updates.
      stop: first step without updates; None for never.
      distribution: "erk" or "uniform".
      filter_fn: which leaves are sparse.

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
        drop_fraction=drop_fraction,
        update_every=update_every,
        stop=stop,
        distribution=distribution,
        filter_fn=filter_fn,
    )


def set_itop(
    density: float,
    *,
    stop: int,
    update_every: int = 1500,
    drop_fraction: float = 0.5,
    distribution: str = "erk",
    filter_fn: LeafFilter | None = None,
) -> TopologyTransform:
    """Return SET with the settings of in-time over-parameterization: rare, large updates.

    The drop fraction decays from `drop_fraction` to 0 at `stop` as a cosine.

    Args:
      density: see `set`.
      stop: last step of the decay; no update from there on.
      update_every: steps between updates; 1500 in the paper.
      drop_fraction: fraction at step 0; 0.5 in the paper.
      distribution: see `set`.
      filter_fn: see `set`.

    Returns:
      A `TopologyTransform`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Liu et al., *Do We Actually Need Dense Over-Parameterization?*, ICML 2021, section 4.

    >>> float(set_itop(0.1, stop=3000).drop_fraction(1500))
    0.25
    """
    return set(
        density,
        drop_fraction=cosine_fraction(drop_fraction, check_count(stop, "stop")),
        update_every=update_every,
        stop=stop,
        distribution=distribution,
        filter_fn=filter_fn,
    )
