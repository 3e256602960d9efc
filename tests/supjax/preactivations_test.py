"""Pre-activations of flax's networks in training mode."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import supjax
from supjax.types import Ticket


class Normed(nn.Module):
    """Two layers with batch norm between them."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(6, use_bias=False, name="first")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(3, name="last")(x)


def make(seed, x):
    variables = Normed().init(jax.random.key(seed), x, train=False)
    params = variables["params"]
    return Ticket(params, supjax.dense_masks(params), variables["batch_stats"])


def as_variables(ticket):
    return {"params": ticket.params, "batch_stats": ticket.batch_stats}


def test_in_training_mode_batch_norm_hides_what_is_scaled_before_it():
    x = jax.random.normal(jax.random.key(0), (64, 4))
    ticket = make(1, x)
    first = {**ticket.params["first"], "kernel": 3 * ticket.params["first"]["kernel"]}
    scaled = ticket._replace(params={**ticket.params, "first": first})
    found = {}
    for train in (False, True):
        layers = supjax.linen_preactivations(Normed(), train=train)
        one, other = (layers(as_variables(t), x)["last/kernel"] for t in (ticket, scaled))
        found[train] = float(jnp.abs(one - other).max())
    assert found[True] < 1e-3 < 0.1 < found[False]


def test_repair_in_training_mode_changes_nothing_that_batch_norm_undoes():
    x = jax.random.normal(jax.random.key(0), (64, 4))
    ticket = make(1, x)
    first = {**ticket.params["first"], "kernel": 0.5 * ticket.params["first"]["kernel"]}
    shrunken = ticket._replace(params={**ticket.params, "first": first})
    layers = supjax.linen_preactivations(Normed(), train=True)
    mended = supjax.repair(layers, [ticket], shrunken, [x])
    np.testing.assert_allclose(
        mended.params["first"]["kernel"], ticket.params["first"]["kernel"], rtol=1e-4
    )
    np.testing.assert_allclose(
        mended.params["last"]["kernel"], ticket.params["last"]["kernel"], rtol=1e-2
    )
