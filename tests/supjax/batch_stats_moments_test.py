"""Models and options from which no batch moments can be had: one clear line each."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from supjax.batch_stats import recompute_batch_stats
from supjax.types import Ticket
from tests.helpers.norm_nets import ticket_of, training


class Hidden(nn.Module):
    """A running average whose slope cannot be read: it hides behind `stop_gradient`."""

    @nn.compact
    def __call__(self, x, train):
        mean = self.variable("batch_stats", "mean", jnp.zeros, ())
        mean.value = jax.lax.stop_gradient(0.9 * mean.value + 0.1 * x.mean())
        return x


class Multiplied(nn.Module):
    """A statistic that no batch moment can be read off."""

    @nn.compact
    def __call__(self, x, train):
        value = self.variable("batch_stats", "value", jnp.ones, (2,))
        value.value = value.value * x.mean(0)
        return x


class Other(nn.Module):
    """A running average outside any leaf named `var`."""

    @nn.compact
    def __call__(self, x, train):
        mean = self.variable("batch_stats", "mean", jnp.zeros, ())
        mean.value = 0.5 * mean.value + 0.5 * x.mean()
        return x


X = np.array([[1.0, 2.0], [5.0, 7.0]], np.float32)


class Norm(nn.Module):
    """One layer of batch norm."""

    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(not train, name="bn")(x)


def plain_function(variables, x):
    stats = variables["batch_stats"]
    return x, {"batch_stats": {"var": 0.5 * stats["var"] + 0.5 * x.var(0)}}


def recompute(model, *, batches=(X,), ticket=None, apply_fn=None, **options):
    ticket = ticket_of(model, X) if ticket is None else ticket
    return recompute_batch_stats(apply_fn or training(model), ticket, batches, **options)


def recompute_in_evaluation_mode():
    return recompute(Norm(), apply_fn=partial(training(Norm()), train=False))


def recompute_plain_function(*names):
    ticket = Ticket({}, {}, {name: jnp.ones(2) for name in names})
    return recompute_batch_stats(plain_function, ticket, [X], variance="unbiased")


BAD = [
    (
        partial(recompute, Norm(), weighting="pixel"),
        "weighting must be one of ['batch', 'example']",
    ),
    (
        partial(recompute, Norm(), variance="sample"),
        "variance must be one of ['as_stored', 'biased",
    ),
    (
        partial(recompute, Norm(), stored="sample"),
        "stored must be one of ['biased', 'unbiased'], got",
    ),
    (
        partial(recompute, Norm(), batches=iter(())),
        "batches is empty: at least one batch is needed",
    ),
    (
        partial(recompute, Norm(), ticket=Ticket({}, {})),
        "the ticket has no batch_stats to estimate",
    ),
    (
        recompute_in_evaluation_mode,
        "apply_fn leaves batch_stats 'bn/mean' as it was: apply the model in training mode",
    ),
    (
        partial(recompute_plain_function, "mean", "var"),
        "apply_fn and the ticket have different batch_stats: see 'mean'",
    ),
    (partial(recompute, Hidden()), "batch_stats 'mean' is no running average of batch moments"),
    (
        partial(recompute, Multiplied()),
        "batch_stats 'value' is no running average of batch moments",
    ),
    (
        partial(recompute, Other(), variance="unbiased"),
        "batch_stats hold no leaf named 'var' to convert",
    ),
    (
        partial(recompute, Norm(), batches=[X[:1]], variance="unbiased"),
        "the unbiased variance 'bn/var' needs at least 2 values, got 1",
    ),
    (
        partial(recompute_plain_function, "var"),
        "no linen module owns batch_stats 'var': its values cannot be counted",
    ),
    (
        partial(recompute, Norm(), batches=[()], weighting="example"),
        "weighting='example' needs batches with a leading axis of examples",
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
