"""MEST by hand: weight and gradient together decide what goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from supjax.topologies import mest
from supjax.topologies.engine import start

WEIGHTS = {"w": jnp.array([[3.0, -2.0, 1.0, 0.0, 0.0]])}
GRADS = {"w": jnp.array([[0.0, 0.0, -200.0, 500.0, 0.0]])}


@pytest.mark.parametrize(
    ("weight", "gone"),
    [
        (0.01, 1),  # scores 3, 2, 1 + 2
        (0.0, 2),  # scores 3, 2, 1
    ],
)
def test_one_update(weight, gone):
    topology = mest(0.5, gradient_weight=weight)
    state = start({"w": WEIGHTS["w"] != 0})
    kept = {0, 1, 2} - {gone}
    grown = set()
    for seed in range(12):
        key = jax.random.key(seed)
        mask = topology.update(key, GRADS, state, WEIGHTS, 0, drop_fraction=0.3).masks["w"]
        present = set(np.flatnonzero(mask).tolist())
        assert kept < present
        assert len(present) == 3
        grown |= present - kept
    # The gradient of 500 at place 3 does not attract: growth is random among three places.
    assert grown == {gone, 3, 4}


def test_the_share_decays_in_stages():
    topology = mest(0.1, drop_fraction=supjax.staged_fraction(0.2, [1000, 2000]))
    assert [float(topology.drop_fraction(step)) for step in (999, 1000, 2000)] == [0.2, 0.1, 0.05]
