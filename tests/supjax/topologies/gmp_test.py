"""Gradual magnitude pruning by hand: one magnitude for all layers, a cubic ramp."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from supjax.topologies import gmp

KEY = jax.random.key(0)
WEIGHTS = {
    "a": -jnp.arange(1.0, 9.0).reshape(2, 4),
    "b": jnp.arange(9.0, 17.0).reshape(4, 2),
    "bias": jnp.zeros(2),
}


def test_one_update_and_the_last():
    # The update at step 9 comes after 10 of 20 steps: sparsity 0.5 * 0.875 = 0.4375, 7 of 16 go.
    topology = gmp(0.5, ramp_end=20, update_every=10)
    state = topology.init(KEY, WEIGHTS)
    state = topology.update(KEY, WEIGHTS, state, WEIGHTS, 9)
    assert np.flatnonzero(state.masks["a"]).tolist() == [7]
    assert state.masks["b"].all()
    # The one at step 19 ends the ramp: 8 go, and a whole layer with them.
    state = topology.update(KEY, WEIGHTS, state, WEIGHTS, 19)
    assert not state.masks["a"].any()
    assert state.masks["b"].all()
    assert [step for step in range(60) if topology.due(step)] == [9, 19]


def test_an_exploration_does_not_undo_pruning():
    topology = gmp(0.5, ramp_end=20)
    state = topology.update(KEY, WEIGHTS, topology.init(KEY, WEIGHTS), WEIGHTS, 19)
    louder = jax.tree.map(lambda w: 20 - jnp.abs(w), WEIGHTS)
    after = topology.update(KEY, louder, state, louder, 30, drop_fraction=0.5)
    jax.tree.map(np.testing.assert_array_equal, after.masks, state.masks)


RAMPS = [
    {"ramp_end": 20},  # a multiple of the interval of 5
    {"ramp_end": 23},
    {"ramp_end": 3},  # shorter than one interval
    {"ramp_start": 7, "ramp_end": 16},
    {"ramp_end": 23, "initial_density": 0.5},
    {"ramp_end": 20, "initial_density": 0.29},
]


@pytest.mark.parametrize("name", ["gmp", "granet"])
@pytest.mark.parametrize("ramp", RAMPS, ids=str)
def test_every_ramp_ends_at_the_exact_budget(name, ramp):
    params = [jnp.arange(1.0, 36.0).reshape(5, 7), jnp.ones(3)]  # 0.29 * 35 = 10.15
    arguments = {"density": 0.29, "update_every": 5, "initial_density": 1.0, **ramp}
    topology = supjax.make_topology(name, **arguments)
    state = topology.init(KEY, params)
    counts = [supjax.count_active(state.masks)]
    reached = None
    for step in filter(topology.due, range(40)):
        state = topology.update(KEY, params, state, params, step)
        counts.append(supjax.count_active(state.masks))
        if counts[-1] == 10 and reached is None:
            reached = step
    assert counts[0] == int(arguments["initial_density"] * 35 + 0.5)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 10
    assert reached + 1 <= -(-arguments["ramp_end"] // 5) * 5
