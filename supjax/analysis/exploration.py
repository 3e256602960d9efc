"""How much of the dense network a sparse run has tried."""

from typing import Any

from supjax.masks import density
from supjax.types import Masks


def exploration_rate(ever_active: Masks) -> Any:
    """Return the in-time over-parameterization rate R_s, `|ever active| / N`.

    Args:
      ever_active: masks of the weights that have been active at least once, as
        `TopologyState.ever_active` holds them.

    Returns:
      R_s in [0, 1]: the density at the start of a run, 1 once every maskable weight had its turn.

    Raises:
      ValueError: nothing is maskable.

    Source: Liu et al., *Do we actually need dense over-parameterization?*, ICML 2021, section 3.

    >>> import jax.numpy as jnp
    >>> exploration_rate({"bias": None, "kernel": jnp.array([[True, True, False, True]])})
    0.75
    """
    return density(ever_active)
