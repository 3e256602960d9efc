"""SNFS by hand: growth goes to the layers, and places, of the largest momentum."""

import jax
import jax.numpy as jnp
import numpy as np

from supjax.topologies import snfs
from supjax.topologies.engine import start

KEY = jax.random.key(0)
LAYER = jnp.array([[4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0]])


def test_one_update():
    # Half go: 2 and 3 of the four in a, 1 of the two in b. The mean |momentum| of active weights
    # is 1 in a and 2 in b (their sums are equal), so of the 3 dropped a grows 1 (place 5) and b
    # grows 2 (places 7 and 6).
    weights = {"a": LAYER, "b": LAYER.at[0, 2:].set(0)}
    momentum = {
        "a": jnp.array([[1.5, -1.5, 0.5, 0.5, 0.1, -0.9, 0.2, 0.3]]),
        "b": jnp.array([[-3.9, 0.1, 0.0, 0.0, 5, 6, -7, 8]]),
    }
    state = start(jax.tree.map(lambda w: w != 0, weights), momentum)
    after = snfs(0.5).update(KEY, weights, state, weights, 0, drop_fraction=0.5)
    assert np.flatnonzero(after.masks["a"]).tolist() == [0, 1, 5]
    assert np.flatnonzero(after.masks["b"]).tolist() == [0, 6, 7]


def test_what_does_not_fit_goes_to_the_other_layer():
    # b asks for all 4 but has room for its 2 dropped ones alone.
    weights = {"a": LAYER, "b": LAYER[:, :4]}
    momentum = {"a": jnp.zeros((1, 8)), "b": jnp.ones((1, 4))}
    state = start(jax.tree.map(lambda w: w != 0, weights), momentum)
    after = snfs(0.5).update(KEY, weights, state, weights, 0, drop_fraction=0.5)
    assert [int(after.masks[name].sum()) for name in ("a", "b")] == [4, 4]


def test_momentum_is_a_moving_average_of_the_dense_gradient():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    topology = snfs(0.5, momentum=0.75)
    state = topology.init(KEY, params)
    assert state.extra["bias"] is None
    for gradient in (8.0, 16.0):
        state = topology.observe(jax.tree.map(lambda w, g=gradient: g * w, params), state)
    # 0.75 * (0.25 * 8) + 0.25 * 16 = 5.5, on inactive places as well.
    assert state.extra["kernel"].tolist() == [[5.5, 5.5], [5.5, 5.5]]
