"""Calibration by hand, and by NumPy on random predictions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supjax.analysis import (
    brier,
    ece,
    ensemble_log_probabilities,
    nll,
    reliability_bins,
)

PROBABILITIES = np.array(
    [[0.95, 0.03, 0.02], [0.1, 0.85, 0.05], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2], [0.35, 0.33, 0.32]]
)
LOGITS = jnp.log(jnp.asarray(PROBABILITIES, jnp.float32)) + 3
LABELS = np.array([0, 2, 2, 0, 1])


def test_reliability_by_hand():
    found = reliability_bins(LOGITS, LABELS, bins=5)
    np.testing.assert_array_equal(found.counts, [0, 1, 2, 0, 2])
    np.testing.assert_allclose(found.confidence, [0, 0.35, 0.55, 0, 0.9], rtol=1e-6)
    np.testing.assert_allclose(found.accuracy, [0, 0, 1, 0, 0.5], rtol=1e-6)


def test_ece_by_hand():
    expected = (1 * 0.35 + 2 * 0.45 + 2 * 0.4) / 5
    np.testing.assert_allclose(ece(LOGITS, LABELS, bins=5), expected, rtol=1e-6)
    overall = abs(3 / 5 - PROBABILITIES.max(1).mean())
    np.testing.assert_allclose(ece(LOGITS, LABELS, bins=1), overall, rtol=1e-5)


def test_a_certain_prediction_falls_into_the_last_bin():
    logits = jnp.array([[200.0, 0.0], [0.0, 200.0]])
    found = reliability_bins(logits, jnp.array([0, 0]))
    np.testing.assert_array_equal(found.counts, [0] * 14 + [2])
    assert float(ece(logits, jnp.array([0, 0]))) == 0.5


def test_likelihood_and_brier_score_by_hand():
    p = PROBABILITIES
    expected = -np.log([p[0, 0], p[1, 2], p[2, 2], p[3, 0], p[4, 1]]).mean()
    np.testing.assert_allclose(nll(LOGITS, LABELS), expected, rtol=1e-6)
    np.testing.assert_allclose(
        brier(LOGITS[:2], LABELS[:2]),
        (0.05**2 + 0.03**2 + 0.02**2 + 0.1**2 + 0.85**2 + 0.95**2) / 2,
        rtol=1e-5,
    )


def test_log_probabilities_are_logits():
    log_probabilities = jax.nn.log_softmax(LOGITS)
    for score in (ece, nll, brier):
        np.testing.assert_allclose(
            score(log_probabilities, LABELS), score(LOGITS, LABELS), rtol=1e-5
        )


def test_ece_of_random_predictions_agrees_with_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(500, 10)).astype(np.float32) * 2
    labels = rng.integers(0, 10, 500)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = p.max(1), p.argmax(1) == labels
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    np.testing.assert_allclose(ece(logits, labels), expected, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(ece)(logits, labels), expected, rtol=1e-4)


def test_ensembles_average_probabilities():
    other = jnp.roll(LOGITS, 1, axis=1)
    members = jnp.stack([LOGITS, other])
    expected = (PROBABILITIES + np.roll(PROBABILITIES, 1, axis=1)) / 2
    np.testing.assert_allclose(jnp.exp(ensemble_log_probabilities(members)), expected, rtol=1e-6)


def test_confident_ensembles_keep_a_finite_likelihood():
    members = jnp.array([[[500.0, 0.0]], [[300.0, 0.0]]])
    assert float(jax.nn.softmax(members)[:, 0, 1].max()) == 0
    found = nll(ensemble_log_probabilities(members), jnp.array([1]))
    np.testing.assert_allclose(found, 300 + np.log(2), rtol=1e-6)


def test_half_precision_is_scored_in_single():
    logits, labels = jnp.tile(LOGITS, (400, 1)), np.tile(LABELS, 400)
    found = ece(logits.astype(jnp.bfloat16), labels, bins=5)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, ece(LOGITS, LABELS, bins=5), atol=0.01)


SHAPE = "logits must have shape (examples, classes), none of them 0, got "


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ece(LOGITS[0], LABELS), ValueError, SHAPE + "(3,)"),
        (lambda: nll(jnp.zeros((0, 3)), jnp.zeros(0, int)), ValueError, SHAPE + "(0, 3)"),
        (lambda: brier(LOGITS.astype(int), LABELS), TypeError, "logits must be floating-point"),
        (lambda: nll(LOGITS, LABELS + 0.0), TypeError, "labels must be integers, got float"),
        (
            lambda: ece(LOGITS, LABELS[:2]),
            ValueError,
            "labels must have shape (5,) as the logits have 5 examples, got (2,)",
        ),
        (
            lambda: ece(LOGITS, LABELS, bins=0),
            ValueError,
            "bins must be an integer of at least 1, got 0",
        ),
        (
            lambda: ensemble_log_probabilities(LOGITS),
            ValueError,
            "logits must have shape (members, examples, classes), none of them 0, got (5, 3)",
        ),
        (
            lambda: ensemble_log_probabilities(jnp.zeros((0, 5, 3))),
            ValueError,
            "logits must have shape (members, examples, classes), none of them 0, got (0, 5, 3)",
        ),
    ],
)
def test_bad_input_ends_in_one_line(call, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}"):
        call()
