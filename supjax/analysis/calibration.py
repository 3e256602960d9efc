"""Do predicted probabilities mean what they say: calibration error, likelihood, Brier score.

All functions take logits `(examples, classes)`. Log-probabilities are logits too, so that an
ensemble is scored by way of `ensemble_log_probabilities`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from supjax.analysis.logits import check_labels, check_logits
from supjax.checks import check_count


class ReliabilityBins(NamedTuple):
    """Predictions sorted into equal intervals of confidence.

    Attributes:
      counts: int32 `(bins,)`, number of examples.
      confidence: `(bins,)`, mean probability of the predicted class; 0 in an empty bin.
      accuracy: `(bins,)`, share of right predictions; 0 in an empty bin.

    >>> ReliabilityBins(jnp.array([2]), jnp.array([0.9]), jnp.array([0.5])).counts
    Array([2], dtype=int32)
    """

    counts: jax.Array
    confidence: jax.Array
    accuracy: jax.Array


def reliability_bins(logits: Any, labels: Any, bins: int = 15) -> ReliabilityBins:
    """Sort predictions by confidence: bin m holds confidences in `((m - 1)/bins, m/bins]`.

    Args:
      logits: `(examples, classes)`.
      labels: integers `(examples,)`.
      bins: number of intervals.

    Returns:
      The `ReliabilityBins`.

    Raises:
      ValueError: shapes that do not fit, or `bins` below 1.
      TypeError: logits that are not floating-point or labels that are not integers.

    Source: Guo et al., *On calibration of modern neural networks*, ICML 2017, section 2.

    >>> logits = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]))
    >>> reliability_bins(logits, jnp.array([0, 1, 0]), bins=4).counts
    Array([0, 0, 1, 2], dtype=int32)
    """
    check_count(bins, "bins")
    logits = check_logits(logits)
    labels = check_labels(labels, logits)
    confidence = jnp.max(jax.nn.softmax(logits), axis=-1)
    right = (jnp.argmax(logits, axis=-1) == labels).astype(confidence.dtype)
    place = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    counts = jax.ops.segment_sum(jnp.ones_like(place), place, bins)
    divisor = jnp.maximum(counts, 1)
    return ReliabilityBins(
        counts=counts,
        confidence=jax.ops.segment_sum(confidence, place, bins) / divisor,
        accuracy=jax.ops.segment_sum(right, place, bins) / divisor,
    )


def ece(logits: Any, labels: Any, bins: int = 15) -> jax.Array:
    """Return the expected calibration error, `sum_m n_m / n * |accuracy_m - confidence_m|`.

    Args:
      logits: `(examples, classes)`.
      labels: integers `(examples,)`.
      bins: number of equal intervals of confidence.

    Returns:
      A scalar in [0, 1].

    Raises:
      ValueError: shapes that do not fit, or `bins` below 1.
      TypeError: logits that are not floating-point or labels that are not integers.

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3.

    >>> logits = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]))
    >>> round(float(ece(logits, jnp.array([0, 1, 0]), bins=2)), 4)  # |2/3 - 0.8|
    0.1333
    """
    counts, confidence, accuracy = reliability_bins(logits, labels, bins)
    return jnp.sum(counts * jnp.abs(accuracy - confidence)) / jnp.sum(counts)


def losses(logits: Any, labels: Any) -> jax.Array:
    """Return the negative log-likelihood of every example, `-log p_n,label`, in nats.

    Args:
      logits: `(examples, classes)`.
      labels: integers `(examples,)`.

    Returns:
      An array `(examples,)`, at least 0; what `superpose_scored` and `paired_difference` take.

    Raises:
      ValueError: shapes that do not fit.
      TypeError: logits that are not floating-point or labels that are not integers.

    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> [round(float(loss), 4) for loss in losses(logits, jnp.array([0, 1]))]  # log 4, log 2
    [1.3863, 0.6931]
    """
    logits = check_logits(logits)
    labels = check_labels(labels, logits)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)
    return -chosen[:, 0]


def nll(logits: Any, labels: Any) -> jax.Array:
    """Return the mean negative log-likelihood, `-mean_n log p_n,label`, in nats.

    Args:
      logits: `(examples, classes)`.
      labels: integers `(examples,)`.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: shapes that do not fit.
      TypeError: logits that are not floating-point or labels that are not integers.

    >>> round(float(nll(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0]))), 4)  # log 4
    1.3863
    """
    return jnp.mean(losses(logits, labels))


def brier(logits: Any, labels: Any) -> jax.Array:
    """Return the Brier score, `mean_n sum_k (p_nk - [k = label_n])^2`.

    Args:
      logits: `(examples, classes)`.
      labels: integers `(examples,)`.

    Returns:
      A scalar in [0, 2].

    Raises:
      ValueError: shapes that do not fit.
      TypeError: logits that are not floating-point or labels that are not integers.

    Source: Brier, *Verification of forecasts expressed in terms of probability*, 1950.

    >>> round(float(brier(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0]))), 4)
    1.125
    """
    logits = check_logits(logits)
    labels = check_labels(labels, logits)
    errors = jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jnp.mean(jnp.sum(errors**2, axis=-1))


def ensemble_log_probabilities(logits: Any) -> jax.Array:
    """Return the log of the mean prediction of several networks, `log mean_m softmax(logits_m)`.

    It stays finite where the probabilities themselves would underflow, and is what the other
    functions of this module take as logits.

    Args:
      logits: `(members, examples, classes)`.

    Returns:
      Log-probabilities `(examples, classes)`.

    Raises:
      ValueError: another number of axes, or an empty one.
      TypeError: not floating-point.

    Source: Lakshminarayanan et al., *Simple and scalable predictive uncertainty estimation using
    deep ensembles*, NeurIPS 2017, section 2.4.

    >>> members = jnp.log(jnp.array([[[0.5, 0.5]], [[0.25, 0.75]]]))
    >>> jnp.exp(ensemble_log_probabilities(members))
    Array([[0.375, 0.625]], dtype=float32)
    """
    logits = check_logits(logits, ndim=3)
    mean_of = jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0)
    return mean_of - jnp.log(jnp.asarray(logits.shape[0], mean_of.dtype))
