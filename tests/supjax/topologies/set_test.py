"""SET by hand: the smallest weights go, any free place may come."""

import jax
import jax.numpy as jnp
import numpy as np

from supjax.topologies import set_itop
from supjax.topologies.engine import start
from supjax.topologies.set import set as sparse_evolution

WEIGHTS = {"w": jnp.array([[4.0, -1.0, 2.0, 3.0, 0.0, 0.0]])}
GRADS = {"w": jnp.array([[0.0, 0.0, 0.0, 0.0, 9.0, 0.0]])}


def test_growth_is_uniform_whatever_the_gradient_says():
    # One of four goes: weight 1 of magnitude 1. Places 1, 4 and 5 are free.
    topology, state = sparse_evolution(0.5), start({"w": WEIGHTS["w"] != 0})

    @jax.jit
    @jax.vmap
    def update(key):
        return topology.update(key, GRADS, state, WEIGHTS, 0, drop_fraction=0.25).masks["w"][0]

    masks = np.asarray(update(jax.random.split(jax.random.key(0), 900)))
    assert masks[:, [0, 2, 3]].all()
    assert (masks[:, [1, 4, 5]].sum(1) == 1).all()
    # A third each; 0.1 is more than six standard errors.
    np.testing.assert_allclose(masks[:, [1, 4, 5]].mean(0), 1 / 3, atol=0.1)


def test_itop_settings():
    topology = set_itop(0.1, stop=4500)
    assert [step for step in range(6000) if topology.due(step)] == [1499, 2999, 4499]
    # 0.5/2 (1 + cos(pi t / 4500)) at 0, 1/3, 2/3 and the end.
    fractions = [float(topology.drop_fraction(step)) for step in (0, 1500, 3000, 4500)]
    np.testing.assert_allclose(fractions, [0.5, 0.375, 0.125, 0], atol=1e-12)
