"""Distances between predictions and between masks, by hand; the exploration rate."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from supjax.analysis import disagreement, exploration_rate, kl_divergence, pairwise

P = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3], [0.6, 0.2, 0.2]]))
Q = jnp.log(jnp.array([[0.5, 0.4, 0.1], [0.5, 0.3, 0.2], [0.4, 0.3, 0.3], [0.6, 0.2, 0.2]]))


def test_disagreement_by_hand():
    assert float(disagreement(P, Q)) == 0.5
    assert float(disagreement(P, P + 5)) == 0


def test_kl_by_hand():
    p, q = np.exp(P), np.exp(Q)
    expected = np.mean(np.sum(p * np.log(p / q), axis=1))
    np.testing.assert_allclose(kl_divergence(P, Q), expected, rtol=1e-5)
    np.testing.assert_allclose(kl_divergence(P + 2, Q - 7), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(kl_divergence)(P, P), 0, atol=1e-7)
    assert float(kl_divergence(Q, P)) != float(kl_divergence(P, Q))


def test_kl_of_certain_predictions_is_finite():
    certain, other = jnp.array([[400.0, 0.0]]), jnp.array([[0.0, 0.0]])
    np.testing.assert_allclose(kl_divergence(certain, other), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(kl_divergence(other, certain), 200 - np.log(2), rtol=1e-6)
    impossible = jnp.array([[0.0, -jnp.inf]])
    np.testing.assert_allclose(kl_divergence(impossible, other), np.log(2), rtol=1e-6)


def test_all_pairs_of_masks():
    masks = [{"w": jnp.array(m, bool)} for m in ([1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1])]
    np.testing.assert_allclose(
        pairwise(supjax.iou, masks), [[1, 1 / 3, 0], [1 / 3, 1, 1 / 3], [0, 1 / 3, 1]]
    )


def test_all_pairs_of_predictions():
    found = pairwise(kl_divergence, [P, Q])
    assert found[0, 1] == float(kl_divergence(P, Q))
    assert found[1, 0] == float(kl_divergence(Q, P))
    assert pairwise(disagreement, []).shape == (0, 0)


@pytest.mark.parametrize("distance", [disagreement, kl_divergence])
@pytest.mark.parametrize(
    ("second", "kind", "message"),
    [
        (Q[:2], ValueError, "predictions differ in shape: (4, 3) and (2, 3)"),
        (Q[0], ValueError, "logits must have shape (examples, classes), none of them 0, got (3,)"),
        (Q.astype(int), TypeError, "logits must be floating-point, got int32"),
    ],
)
def test_bad_predictions_end_in_one_line(distance, second, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        distance(P, second)


def test_exploration_grows_by_what_is_tried_for_the_first_time():
    params = {"bias": jnp.ones(4), "kernel": jnp.ones((10, 10))}
    topology = supjax.make_topology("rigl", density=0.1, update_every=1)
    state = topology.init(jax.random.key(0), params)
    rates = [exploration_rate(state.ever_active)]
    for step in range(3):
        untried = {"bias": params["bias"], "kernel": 1.0 - state.ever_active["kernel"]}
        state = topology.update(jax.random.key(1), untried, state, params, step, drop_fraction=0.3)
        rates.append(exploration_rate(state.ever_active))
    assert rates == [0.1, 0.13, 0.16, 0.19]


def test_exploration_of_nothing_is_undefined():
    with pytest.raises(ValueError, match="without maskable weights"):
        exploration_rate({"bias": None})
