"""How differently two networks predict, and tables of any distance over all pairs.

Masks are compared by `supjax.iou`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supjax.analysis.logits import check_logits


def disagreement(first: Any, second: Any) -> jax.Array:
    """Return the share of examples to which two networks give different classes.

    `mean_n [argmax_k first_nk != argmax_k second_nk]`.

    Args:
      first: logits or log-probabilities of one network, `(examples, classes)`.
      second: those of the other, for the same examples.

    Returns:
      A scalar in [0, 1].

    Raises:
      ValueError: the shapes differ, or are not `(examples, classes)`.
      TypeError: not floating-point.

    Source: Fort et al., *Deep ensembles: a loss landscape perspective*, 2019.

    >>> float(disagreement(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])))
    0.5
    """
    first, second = _same_examples(first, second)
    return jnp.mean(jnp.argmax(first, axis=-1) != jnp.argmax(second, axis=-1))


def kl_divergence(first: Any, second: Any) -> jax.Array:
    """Return the mean Kullback-Leibler divergence between predictive distributions, in nats.

    `mean_n sum_k p_nk log(p_nk / q_nk)` with `p = softmax(first)`, `q = softmax(second)`.

    Args:
      first: logits or log-probabilities of one network, `(examples, classes)`.
      second: those of the other, for the same examples.

    Returns:
      A scalar, at least 0; not symmetric.

    Raises:
      ValueError: the shapes differ, or are not `(examples, classes)`.
      TypeError: not floating-point.

    Source: Liu et al., *Deep ensembling with no overhead for either training or testing*,
    ICLR 2022 (diversity of tickets).

    >>> p, q = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.25, 0.75]]))
    >>> round(float(kl_divergence(p, q)), 4)  # 0.5 log 2 + 0.5 log(2/3)
    0.1438
    """
    first, second = (jax.nn.log_softmax(x) for x in _same_examples(first, second))
    terms = jnp.where(first > -jnp.inf, jnp.exp(first) * (first - second), 0)
    return jnp.mean(jnp.sum(terms, axis=-1))


def pairwise(distance: Callable[[Any, Any], Any], items: Sequence[Any]) -> np.ndarray:
    """Return the matrix `distance(items[i], items[j])`.

    Args:
      distance: any function of two items, for example `disagreement` or `supjax.iou`.
      items: logits, masks, tickets ...; n of them.

    Returns:
      A float64 array `(n, n)`; the row is the first argument.

    >>> pairwise(lambda a, b: a - b, [1, 2, 4])
    array([[ 0., -1., -3.],
           [ 1.,  0., -2.],
           [ 3.,  2.,  0.]])
    """
    values = [float(distance(a, b)) for a in items for b in items]
    return np.array(values, np.float64).reshape(len(items), len(items))


def _same_examples(first: Any, second: Any) -> tuple[jax.Array, jax.Array]:
    first, second = check_logits(first), check_logits(second)
    if first.shape != second.shape:
        raise ValueError(f"predictions differ in shape: {first.shape} and {second.shape}")
    return first, second
