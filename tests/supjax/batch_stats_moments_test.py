"""Models and batches from which no batch moments can be had: one clear line each."""

import re
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from supjax.batch_stats import recompute_batch_stats
from supjax.types import Ticket
from tests.helpers.norm_nets import MixedNet, ticket_of, training


class Multiplied(nn.Module):
    """A statistic that no batch moment can be read off."""

    @nn.compact
    def __call__(self, x, train):
        value = self.variable("batch_stats", "value", jnp.ones, (2,))
        value.value = value.value * x.mean(0)
        return x


X = np.array([[1.0, 2.0], [5.0, 7.0]], np.float32)


class Norm(nn.Module):
    """One layer of batch norm."""

    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(not train, name="bn")(x)


def plain_function(variables, x):
    return x, {"batch_stats": {"var": 0.5 * x.var(0)}}


def recompute(model, *, batches=(X,), apply_fn=None):
    return recompute_batch_stats(apply_fn or training(model), ticket_of(model, X), batches)


def recompute_in_evaluation_mode():
    return recompute(Norm(), apply_fn=partial(training(Norm()), train=False))


def recompute_spectral_in_evaluation_mode():
    model = MixedNet()
    return recompute(model, apply_fn=partial(training(model), train=False))


def recompute_plain_function():
    return recompute_batch_stats(plain_function, Ticket({}, {}, {"mean": jnp.ones(2)}), [X])


BAD = [
    (
        partial(recompute, Norm(), batches=iter(())),
        "batches is empty: at least one batch is needed",
    ),
    (
        recompute_in_evaluation_mode,
        "apply_fn leaves batch_stats 'bn/mean' as it was: apply the model in training mode",
    ),
    (
        recompute_spectral_in_evaluation_mode,
        "apply_fn leaves batch_stats 'first/mean' as it was: apply the model in training mode",
    ),
    (
        recompute_plain_function,
        "apply_fn and the ticket have different batch_stats: see 'mean'",
    ),
    (
        partial(recompute, Multiplied()),
        "batch_stats 'value' is no running average of batch moments",
    ),
    (
        partial(recompute, Norm(), batches=[X * np.float32(np.nan)]),
        "the first batch makes batch_stats 'bn/mean' infinite or nan",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_ends_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_apply_fn_without_updates_is_refused():
    apply_fn = partial(Norm().apply, train=False)
    with pytest.raises(TypeError, match=r"must return \(outputs, {'batch_stats'"):
        recompute(Norm(), apply_fn=apply_fn)
