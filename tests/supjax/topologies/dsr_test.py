"""DSR by hand: one threshold for all layers, which halves and doubles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from supjax.topologies import dsr
from supjax.topologies.dsr import Threshold
from supjax.topologies.engine import start

KEY = jax.random.key(0)
WEIGHTS = {"a": jnp.array([[8.0, 1, 2, 0, 0, 0]]), "b": jnp.array([[7.0, 6, 5, 0, 0, 0]])}
MASKS = jax.tree.map(lambda w: w != 0, WEIGHTS)
SHARE = 0.33  # of six weights: two


def update(threshold, fraction=SHARE, weights=WEIGHTS, last=SHARE):
    state = start(MASKS, Threshold(jnp.float32(threshold), jnp.float32(last)))
    after = dsr(0.5).update(KEY, WEIGHTS, state, weights, 0, drop_fraction=fraction)
    return after, [int(after.masks[name].sum()) for name in ("a", "b")]


def test_the_first_update_drops_the_wanted_number_and_sets_the_threshold():
    # 1 and 2 go. a keeps 1 weight, b 3: of 2 new ones the shares are 0.5 and 1.5, rounded down 0
    # and 1, and the one left over goes to the first layer.
    after, counts = update(threshold=0.0, last=0.0)
    assert counts == [2, 4]
    assert after.masks["a"][0, 0]
    assert after.masks["b"][0, :3].all()
    assert after.extra == (5, jnp.float32(SHARE))


@pytest.mark.parametrize(
    ("threshold", "counts", "new"),
    [
        # Nothing is below 1: nothing moves, and the threshold doubles.
        (1.0, [3, 3], 2.0),
        # 1 and 2 are below 4, as wanted: the threshold stays.
        (4.0, [2, 4], 4.0),
        # 1, 2, 5, 6 are below 6.5: more than 1.1 * 2. Survivors 8 | 7: two new ones each.
        (6.5, [3, 3], 3.25),
        # Everything is below: six new ones, shared evenly.
        (9.0, [3, 3], 4.5),
    ],
)
def test_the_threshold_follows_the_number_of_weights_below_it(threshold, counts, new):
    after, found = update(threshold)
    assert found == counts
    assert after.extra.value == new


def test_an_exploration_drops_exactly_what_it_asks_for():
    # The wanted share moves from 0.33 to 0.5, so the old threshold does not count: 1, 2, 5 go.
    after, counts = update(threshold=1.0, fraction=0.5)
    assert sum(counts) == 6
    assert after.masks["b"][0, :2].all()
    assert after.extra == (6, 0.5)


def test_a_threshold_of_zero_is_no_dead_end():
    # Weights of exactly zero set a threshold of zero; the next update must move weights again.
    zeros = jax.tree.map(jnp.zeros_like, WEIGHTS)
    after, _ = update(threshold=0.0, weights=zeros, last=0.0)
    assert after.extra.value == 0
    moved = set()
    for seed in range(5):
        key = jax.random.key(seed)
        again = dsr(0.5).update(key, WEIGHTS, after, zeros, 0, drop_fraction=SHARE)
        moved.add(supjax.iou(again.masks, after.masks) < 1)
        assert supjax.count_active(again.masks) == 6
    assert True in moved


def test_growth_is_random_among_free_places():
    @jax.vmap
    def places(key):
        state = start(MASKS, Threshold(jnp.float32(0), jnp.float32(0)))
        return dsr(0.5).update(key, WEIGHTS, state, WEIGHTS, 0, drop_fraction=SHARE).masks["b"][0]

    masks = np.asarray(jax.jit(places)(jax.random.split(KEY, 600)))
    np.testing.assert_allclose(masks.mean(0), [1, 1, 1, 1 / 3, 1 / 3, 1 / 3], atol=0.12)
