"""RigL: drop the smallest weights, grow where the dense gradient is largest."""

from typing import Unpack

from supjax.checks import check_count
from supjax.prune_grow import magnitude
from supjax.schedules import cosine_fraction
from supjax.topologies.engine import Shared, Start, dynamic, method
from supjax.types import Schedule, TopologyTransform


@method
def rigl(density: float, **shared: Unpack[Shared]) -> TopologyTransform:
    """Return RigL: drop by `|w|`, grow by the absolute dense gradient.

    With `stop`, a number as drop fraction decays as `f(t) = a/2 (1 + cos(pi t / stop))`; the
    paper takes a = 0.3 and stop = 3/4 of the run. Without `stop` it stays constant.

    Args:
      density: share of kept weights over all maskable ones, in (0, 1].
      **shared: see `Shared`.

    Returns:
      A `TopologyTransform`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Evci et al., *Rigging the Lottery*, ICML 2020, algorithm 1.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> method, params = rigl(0.5, drop_fraction=0.5), {"w": jnp.array([[2.0, 1.0, 0.0, 0.0]])}
    >>> state = method.init(jax.random.key(0), params)
    >>> state = state._replace(masks={"w": params["w"] > 0})
    >>> grads = {"w": jnp.array([[0.0, 0.0, 1.0, -3.0]])}
    >>> method.update(jax.random.key(1), grads, state, params, step=0).masks["w"].tolist()
    [[True, False, False, True]]
    """
    stop, fraction = shared.get("stop"), shared.get("drop_fraction", 0.3)
    if not callable(fraction) and stop is not None:
        shared["drop_fraction"] = cosine_fraction(fraction, check_count(stop, "stop"))
    return dynamic(
        density,
        drop_scores=lambda key, params, grads, masks: magnitude(params, masks),
        grow_scores=lambda key, params, grads, masks: magnitude(grads, masks),
        dense_gradient="updates",
        **shared,
    )


@method
def rigl_itop(
    density: float,
    *,
    stop: int,
    update_every: int = 4000,
    drop_fraction: float | Schedule = 0.5,
    **shared: Unpack[Start],
) -> TopologyTransform:
    """Return RigL with the settings of in-time over-parameterization: rare, large updates.

    Args:
      density: see `rigl`.
      stop: last step of the cosine decay; no update from there on.
      update_every: steps between updates; 4000 in the paper.
      drop_fraction: fraction at step 0; 0.5 in the paper.
      **shared: see `Shared`.

    Returns:
      A `TopologyTransform`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Liu et al., *Do We Actually Need Dense Over-Parameterization?*, ICML 2021, section 4.

    >>> float(rigl_itop(0.1, stop=8000).drop_fraction(4000))
    0.25
    """
    return rigl(
        density, drop_fraction=drop_fraction, update_every=update_every, stop=stop, **shared
    )
