"""Explorations of methods without a grow rule, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from supjax.topologies import exploring, gmp, make_topology
from supjax.topologies.engine import start

KEY = jax.random.key(0)
WEIGHTS = {"w": jnp.array([[5.0, -1.0, 3.0, -2.0, 0.0, 0.0, 0.0, 0.0]])}
GRADS = {"w": jnp.array([[8.0, 9.0, 8.0, 0.0, 1.0, -7.0, 2.0, 0.0]])}


@pytest.mark.parametrize("name", ["static", "snip", "grasp", "synflow"])
def test_fixed_masks_move_when_an_exploration_is_asked_for(name):
    # Half of four: 1 and 3 go; of the free places come 1 (gradient 9) and 5 (7).
    topology = exploring(make_topology(name, density=0.5))
    state = start({"w": WEIGHTS["w"] != 0})
    own = topology.update(KEY, GRADS, state, WEIGHTS, 0)
    assert supjax.iou(own.masks, state.masks) == 1
    after = topology.update(KEY, GRADS, state, WEIGHTS, 0, drop_fraction=0.5)
    assert np.flatnonzero(after.masks["w"]).tolist() == [0, 1, 2, 5]
    assert np.flatnonzero(after.ever_active["w"]).tolist() == [0, 1, 2, 3, 5]
    assert not any(topology.due(step) for step in range(5000))


def test_a_ramp_goes_on_below_an_exploration():
    # After 20 of 20 steps 2 of 8 stay, 0 and 2; one of them goes, and 1 comes by its gradient.
    topology = exploring(gmp(0.25, initial_density=0.5, ramp_end=20))
    state = start({"w": WEIGHTS["w"] != 0})
    own = topology.update(KEY, GRADS, state, WEIGHTS, 19)
    assert np.flatnonzero(own.masks["w"]).tolist() == [0, 2]
    after = topology.update(KEY, GRADS, state, WEIGHTS, 19, drop_fraction=0.5)
    assert np.flatnonzero(after.masks["w"]).tolist() == [0, 1]


def test_the_dense_network_has_nowhere_to_go():
    state = start({"w": jnp.ones((1, 8), bool)})
    topology = exploring(make_topology("dense"))
    after = topology.update(KEY, GRADS, state, WEIGHTS, 0, drop_fraction=0.5)
    assert after.masks["w"].all()
