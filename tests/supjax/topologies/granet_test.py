"""GraNet by hand: prune along the ramp, then move half of what is left."""

import jax
import jax.numpy as jnp
import numpy as np

import supjax
from supjax.topologies import granet

KEY = jax.random.key(0)
WEIGHTS = {"w": jnp.arange(16.0, 0.0, -1.0).reshape(4, 4)}
GRADS = {"w": jnp.zeros(16).at[jnp.array([4, 10, 15])].set([4.0, -6.0, 5.0]).reshape(4, 4)}


def test_one_update():
    # After 10 of 20 steps: density 0.25 + 0.75 / 8 = 0.34375, of 16 weights 5.5, rounded up 6.
    # Of the 6 largest (places 0 to 5) half go, 3 to 5; gradients bring 10, 15 and 4 back.
    topology = granet(0.25, initial_density=1.0, ramp_end=20, drop_fraction=0.5)
    state = topology.init(KEY, WEIGHTS)
    assert state.masks["w"].all()
    state = topology.update(KEY, GRADS, state, WEIGHTS, 9)
    assert np.flatnonzero(state.masks["w"]).tolist() == [0, 1, 2, 4, 10, 15]


def test_it_starts_half_dense_and_goes_on_moving_weights_after_the_ramp():
    topology = granet(0.25, ramp_end=20, update_every=10, stop=40)
    state = topology.init(KEY, WEIGHTS)
    assert supjax.count_active(state.masks) == 8
    assert [step for step in range(60) if topology.due(step)] == [9, 19, 29, 39]
    for step in (9, 19):
        state = topology.update(KEY, GRADS, state, WEIGHTS, step)
    assert supjax.count_active(state.masks) == 4
    after = topology.update(KEY, jax.tree.map(jnp.negative, WEIGHTS), state, WEIGHTS, 29)
    assert supjax.count_active(after.masks) == 4
    assert supjax.iou(after.masks, state.masks) < 1
