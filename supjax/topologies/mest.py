"""MEST: drop by weight and gradient together, grow at random."""

from typing import Unpack

import jax
import jax.numpy as jnp

from supjax.prune_grow import random_scores
from supjax.topologies.engine import Shared, dynamic, method
from supjax.types import Masks, Params, PyTree, TopologyTransform


@method
def mest(
    density: float, *, gradient_weight: float = 0.01, **shared: Unpack[Shared]
) -> TopologyTransform:
    """Return memory-economic sparse training: drop by `|w| + lambda |g|`, grow at random.

    In the paper the share that moves decays in stages: pass `staged_fraction(...)`.

    Args:
      density: share of kept weights over all maskable ones, in (0, 1].
      gradient_weight: lambda, at least 0.
      **shared: see `Shared`.

    Returns:
      A `TopologyTransform`.

    Raises:
      ValueError: if an argument is out of range.

    Source: Yuan et al., *MEST*, NeurIPS 2021, section 3 (elastic mutation).

    >>> import supjax
    >>> method = mest(0.1, drop_fraction=supjax.staged_fraction(0.2, [1000, 2000]))
    >>> float(method.drop_fraction(1500))
    0.1
    """
    if not gradient_weight >= 0:
        raise ValueError(f"gradient_weight must be at least 0, got {gradient_weight}")

    def importance(key: jax.Array, params: Params, grads: Params, masks: Masks) -> PyTree:
        del key
        return jax.tree.map(
            lambda w, g, m: None if m is None else jnp.abs(w) + gradient_weight * jnp.abs(g),
            params,
            grads,
            masks,
        )

    return dynamic(
        density,
        drop_scores=importance,
        grow_scores=lambda key, params, grads, masks: random_scores(key, masks),
        dense_gradient="never",
        **shared,
    )
