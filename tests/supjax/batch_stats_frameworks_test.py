"""Batch-norm statistics of any framework: what is a running average is found, the rest is kept."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import supjax
from supjax.batch_stats import nnx_apply_fn, read_momenta, recompute_batch_stats
from supjax.trees import named_leaves
from supjax.types import Ticket
from tests.helpers.norm_nets import (
    MixedNet,
    Net,
    NnxNet,
    haiku_apply,
    ticket_of,
    training,
)

BATCHES = [np.random.default_rng(i).normal(i, 1 + i, (16, 4)).astype(np.float32) for i in range(3)]


def mean_moments(hidden_batches):
    """Mean and variance of what a layer sees, averaged over the batches."""
    return {
        "mean": np.mean([np.mean(h, 0) for h in hidden_batches], 0),
        "var": np.mean([np.var(h, 0) for h in hidden_batches], 0),
    }


def random_stats(stats, seed=3):
    """Statistics as after training: nothing at its initial value."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: (
            jnp.asarray(rng.uniform(0.5, 2.0, x.shape), x.dtype)
            if jnp.issubdtype(x.dtype, jnp.floating)
            else x
        ),
        stats,
    )


# linen


@pytest.fixture(scope="module")
def mixed():
    ticket = ticket_of(MixedNet(), BATCHES[0])
    return ticket._replace(batch_stats=random_stats(ticket.batch_stats))


def test_momenta_name_what_moves_and_what_stays(mixed):
    found = read_momenta(training(MixedNet()), mixed, BATCHES[0])
    assert found.keys() == named_leaves(mixed.batch_stats).keys()
    moving = {path: momentum for path, momentum in found.items() if momentum is not None}
    assert moving == {"first/mean": 0.99, "first/var": 0.99, "last/mean": 0.9, "last/var": 0.9}


def test_what_is_no_running_average_keeps_its_bits(mixed):
    found = recompute_batch_stats(training(MixedNet()), mixed, BATCHES).batch_stats
    for name in ("frozen", "spectral"):
        jax.tree.map(np.testing.assert_array_equal, found[name], mixed.batch_stats[name])
    expected = mean_moments(BATCHES)
    for leaf, values in expected.items():
        np.testing.assert_allclose(found["first"][leaf], values, rtol=1e-4)


def test_the_layers_behind_frozen_ones_see_their_true_values(mixed):
    found = recompute_batch_stats(training(MixedNet()), mixed, BATCHES).batch_stats
    hidden = []
    for batch in BATCHES:
        variables = {"params": mixed.params, "batch_stats": mixed.batch_stats}
        kept = MixedNet().apply(
            variables,
            batch,
            True,
            capture_intermediates=True,
            mutable=["intermediates", "batch_stats"],
        )[1]["intermediates"]
        hidden.append(kept["spectral"]["__call__"][0])
    for leaf, values in mean_moments(hidden).items():
        np.testing.assert_allclose(found["last"][leaf], values, rtol=1e-4, atol=1e-5)


def test_what_another_statistic_disturbs_is_still_found():
    """The second statistic is no running average, and changes what the third one sees."""

    def apply_fn(variables, x):
        old = variables["batch_stats"]
        largest = jnp.maximum(old["largest"], abs(x).max())
        scaled = x / largest
        return x, {
            "batch_stats": {
                "before": 0.75 * old["before"] + 0.25 * x.mean(0),
                "largest": largest,
                "scaled": 0.9 * old["scaled"] + 0.1 * scaled.mean(0),
            }
        }

    stats = {"before": jnp.ones(4), "largest": jnp.float32(20), "scaled": jnp.ones(4)}
    ticket = Ticket({}, {}, stats)
    momenta = read_momenta(apply_fn, ticket, BATCHES[0])
    assert momenta == {"before": 0.75, "largest": None, "scaled": 0.9}
    found = recompute_batch_stats(apply_fn, ticket, BATCHES[:1]).batch_stats
    assert found["largest"] == 20
    np.testing.assert_allclose(found["scaled"], BATCHES[0].mean(0) / 20, rtol=1e-5)


@pytest.mark.parametrize("norm", [nn.LayerNorm, partial(nn.GroupNorm, num_groups=2)])
def test_networks_without_statistics_are_returned_as_they_are(norm):
    model = norm()
    params = model.init(jax.random.key(0), BATCHES[0])["params"]
    for stats in ({}, None, {"steps": jnp.array(3)}):
        ticket = Ticket(params, supjax.dense_masks(params), stats)
        assert recompute_batch_stats(model.apply, ticket, BATCHES) is ticket
        assert recompute_batch_stats(model.apply, ticket, []) is ticket


def test_statistics_without_a_batch_in_them_are_returned_as_they_are():
    model = nn.SpectralNorm(nn.Dense(3))
    variables = model.init(jax.random.key(0), BATCHES[0], update_stats=False)
    ticket = Ticket(variables["params"], {}, variables["batch_stats"])
    apply_fn = partial(model.apply, update_stats=True, mutable=["batch_stats"])
    assert recompute_batch_stats(apply_fn, ticket, BATCHES) is ticket


def test_the_kind_of_tree_is_kept():
    images = np.random.default_rng(0).normal(size=(4, 5, 5, 3)).astype(np.float32)
    ticket = ticket_of(Net(), images)
    frozen = ticket._replace(batch_stats=flax.core.freeze(ticket.batch_stats))
    found = recompute_batch_stats(training(Net()), frozen, [images]).batch_stats
    assert jax.tree.structure(found) == jax.tree.structure(frozen.batch_stats)


MOMENTA = st.integers(1, 6).flatmap(
    lambda digits: st.integers(0, 10**digits - 1).map(lambda n: round(n / 10**digits, digits))
)


def averaging(variables, x, momentum):
    old = variables["batch_stats"]["mean"]
    return x, {"batch_stats": {"mean": momentum * old + (1 - momentum) * x.mean(0)}}


@settings(max_examples=60)
@given(momentum=MOMENTA, exponent=st.integers(-6, 6), seed=st.integers(0, 100))
def test_the_momentum_is_the_decimal_that_was_typed(momentum, exponent, seed):
    x = np.random.default_rng(seed).normal(1, 3, (8, 5)) * 10.0**exponent
    ticket = Ticket({}, {}, {"mean": jnp.ones(5)})
    found = read_momenta(averaging, ticket, (np.float32(x), np.float32(momentum)))
    assert found == {"mean": momentum}


def test_a_momentum_that_follows_the_counter_is_read_at_the_counter():
    """PyTorch's `momentum=None`: the mean over all batches so far."""

    def apply_fn(variables, x):
        old = variables["batch_stats"]
        share = 1 / (old["steps"] + 1)
        mean = old["mean"] + share * (x.mean(0) - old["mean"])
        return x, {"batch_stats": {"mean": mean, "steps": old["steps"] + 1}}

    ticket = Ticket({}, {}, {"mean": jnp.ones(4), "steps": jnp.array(299)})
    found = recompute_batch_stats(apply_fn, ticket, BATCHES).batch_stats
    np.testing.assert_allclose(found["mean"], mean_moments(BATCHES)["mean"], rtol=1e-3)
    assert found["steps"] == 299


# nnx


def nnx_ticket(model):
    params = nnx.state(model, nnx.Param)
    return Ticket(params, supjax.dense_masks(params), random_stats(nnx.state(model, nnx.BatchStat)))


def nnx_hidden(params, stats):
    """What the last norm sees if the first one is frozen and nothing is dropped; numpy."""
    scale = params["frozen/scale"] / np.sqrt(stats["frozen/var"] + 1e-5)
    centred = (batch - stats["frozen/mean"] for batch in BATCHES)
    inputs = (x * scale + params["frozen/bias"] for x in centred)
    return [x @ params["linear/kernel"] + params["linear/bias"] for x in inputs]


def test_an_nnx_model_with_dropout_and_a_frozen_norm_takes_two_lines():
    model = NnxNet(nnx.Rngs(0))
    model.train()
    model.frozen.eval()
    before = jax.tree.map(jnp.copy, nnx.state(model))  # typed keys, which numpy does not know
    ticket = nnx_ticket(model)
    found = recompute_batch_stats(nnx_apply_fn(model), ticket, BATCHES)
    params, new, old = (
        jax.device_get(named_leaves(tree))
        for tree in (ticket.params, found.batch_stats, ticket.batch_stats)
    )
    for leaf in ("mean", "var"):
        np.testing.assert_array_equal(new[f"frozen/{leaf}"], old[f"frozen/{leaf}"])
    for leaf, values in mean_moments(nnx_hidden(params, old)).items():
        np.testing.assert_allclose(new[f"norm/{leaf}"], values, rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(found) == jax.tree.structure(ticket)
    assert not model.dropout.deterministic
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), nnx.state(model), before))


def test_an_nnx_model_in_evaluation_mode_is_told_so():
    model = NnxNet(nnx.Rngs(0))
    model.eval()
    with pytest.raises(ValueError, match="'frozen/mean' as it was: apply the model in"):
        recompute_batch_stats(nnx_apply_fn(model), nnx_ticket(model), BATCHES)


def test_options_of_the_call_reach_an_nnx_model():
    model = NnxNet(nnx.Rngs(0))
    ticket = nnx_ticket(model)
    double = recompute_batch_stats(nnx_apply_fn(model, scale=2.0), ticket, BATCHES)
    scaled = recompute_batch_stats(nnx_apply_fn(model), ticket, [2 * x for x in BATCHES])
    jax.tree.map(np.testing.assert_array_equal, double, scaled)


def test_a_users_own_nnx_function_with_live_dropout_works():
    model = NnxNet(nnx.Rngs(0))
    graph, params, stats, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)

    def apply_fn(variables, x):
        own = variables["params"], variables["batch_stats"]
        merged = nnx.merge(graph, *own, rest, copy=True)
        merged.train()
        return merged(x), {"batch_stats": nnx.state(merged, nnx.BatchStat)}

    ticket = Ticket(params, supjax.dense_masks(params), stats)
    momenta = read_momenta(apply_fn, ticket, BATCHES[0])
    assert momenta == {
        "frozen/mean": 0.99,
        "frozen/var": 0.99,
        "norm/mean": 0.95,
        "norm/var": 0.95,
    }


def test_nnx_weights_may_hang_on_plain_dicts():
    model = NnxNet(nnx.Rngs(0))
    ticket = nnx_ticket(model)
    plain = Ticket(*(nnx.to_pure_dict(tree) for tree in (ticket.params, ticket.masks)), None)
    plain = plain._replace(batch_stats=nnx.to_pure_dict(ticket.batch_stats))
    apply_fn = nnx_apply_fn(model)
    found = recompute_batch_stats(apply_fn, plain, BATCHES).batch_stats
    expected = recompute_batch_stats(apply_fn, ticket, BATCHES).batch_stats
    jax.tree.map(np.testing.assert_array_equal, found, nnx.to_pure_dict(expected))


# Haiku


@pytest.mark.parametrize("counter", [0, 1, 400])
def test_haikus_average_is_estimated_and_not_only_its_hidden_value(counter):
    rng = np.random.default_rng(0)
    params = {f"linear_{i}": {"w": np.float32(rng.normal(size=(4, 4)))} for i in range(2)}
    state = {
        f"norm_{i}/~/{name}_ema": {
            "hidden": np.ones(4, np.float32),
            "average": np.ones(4, np.float32),
            "counter": np.int32(counter),
        }
        for i in range(2)
        for name in ("mean", "var")
    }
    ticket = Ticket(params, {}, state)
    momenta = read_momenta(haiku_apply, ticket, BATCHES[0])
    assert momenta == {
        f"norm_{i}/~/{name}_ema/{leaf}": (0.9, 0.99)[i]
        for i in range(2)
        for name in ("mean", "var")
        for leaf in ("average", "hidden")
    }
    found = recompute_batch_stats(haiku_apply, ticket, BATCHES).batch_stats
    expected = mean_moments([batch @ params["linear_0"]["w"] for batch in BATCHES])
    for name, values in expected.items():
        leaves = found[f"norm_0/~/{name}_ema"]
        np.testing.assert_allclose(leaves["average"], values, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(leaves["hidden"], leaves["average"])
        assert leaves["counter"] == counter


# Without flax


WITHOUT_FLAX = """
import sys
import jax, optax
import supjax

params = {"kernel": jax.numpy.ones((4, 5)), "bias": jax.numpy.ones(5)}
tx = supjax.sparsify(optax.sgd(0.1), supjax.make_topology("rigl", density=0.5), jax.random.key(0))
params = supjax.sparse_params(params, tx.init(params))
masks = supjax.nonzero_masks(params)
ticket = supjax.Ticket(params, masks, {"mean": jax.numpy.ones(5)})
supjax.superpose([ticket, ticket], density=0.5)

def apply_fn(variables, x):
    old = variables["batch_stats"]["mean"]
    return x, {"batch_stats": {"mean": 0.9 * old + 0.1 * x.mean(0)}}

supjax.recompute_batch_stats(apply_fn, ticket, [jax.numpy.ones((3, 5))])
assert not [name for name in sys.modules if name.partition(".")[0] == "flax"]
"""


def test_plain_dicts_need_no_flax():
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_FLAX],
        cwd=Path(supjax.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
