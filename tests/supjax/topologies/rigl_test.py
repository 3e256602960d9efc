"""RigL by hand: the smallest weights go, the largest gradients come."""

import jax
import jax.numpy as jnp
import numpy as np

import supjax
from supjax.topologies import rigl, rigl_itop
from supjax.topologies.engine import start

WEIGHTS = {"w": jnp.array([[5.0, -1.0, 3.0, -2.0, 0.0, 0.0, 0.0, 0.0]])}
GRADS = {"w": jnp.array([[8.0, 9.0, 8.0, 0.0, 1.0, -7.0, 2.0, 0.0]])}
KEY = jax.random.key(0)


def test_one_update():
    # Half of four: 1 (magnitude 1) and 3 (2) go; of 1, 3, 4, 5, 6, 7 come 1 (9) and 5 (7).
    state = start({"w": WEIGHTS["w"] != 0})
    after = rigl(0.5).update(KEY, GRADS, state, WEIGHTS, 0, drop_fraction=0.5)
    assert np.flatnonzero(after.masks["w"]).tolist() == [0, 1, 2, 5]
    assert np.flatnonzero(after.ever_active["w"]).tolist() == [0, 1, 2, 3, 5]
    # The weight that went and came back keeps its value, the new one starts at 0.
    masked = supjax.apply_masks(WEIGHTS, after.masks)
    assert masked["w"].tolist() == [[5, -1, 3, 0, 0, 0, 0, 0]]


def test_layers_move_the_same_share_each():
    # A layer of tiny weights loses no more than one of large ones: ceil(0.3 * 4) = 2 each.
    weights = {"large": WEIGHTS["w"], "tiny": WEIGHTS["w"] / 1000}
    grads = {"large": GRADS["w"] / 1000, "tiny": GRADS["w"]}
    state = start(jax.tree.map(lambda w: w != 0, weights))
    after = rigl(0.5).update(KEY, grads, state, weights, 0, drop_fraction=0.3)
    for mask in jax.tree.leaves(after.masks):
        assert np.flatnonzero(mask).tolist() == [0, 1, 2, 5]


def test_the_drop_fraction_decays_to_the_stop():
    # 0.3/2 (1 + cos(pi/3)) = 0.225.
    topology = rigl(0.1, stop=750, update_every=100)
    fractions = [float(topology.drop_fraction(step)) for step in (0, 250, 750)]
    np.testing.assert_allclose(fractions, [0.3, 0.225, 0], atol=1e-12)
    due = [step for step in range(2000) if topology.due(step)]
    assert due == [99, 199, 299, 399, 499, 599, 699]


def test_without_a_stop_it_stays():
    topology = rigl(0.1, update_every=100)
    assert float(topology.drop_fraction(10**6)) == 0.3
    assert topology.due(10**6 - 1)


def test_itop_settings():
    topology = rigl_itop(0.1, stop=12_000)
    assert [step for step in range(20_000) if topology.due(step)] == [3999, 7999, 11_999]
    assert float(topology.drop_fraction(6000)) == 0.25
