"""Batch-norm statistics: averages, re-estimation, and the authors' own numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from supjax.batch_stats import average_batch_stats, recompute_batch_stats
from supjax.types import Ticket
from tests.helpers.norm_nets import Net, ticket_of, training


@pytest.fixture(scope="module")
def vectors(golden_folder):
    with np.load(golden_folder / "bn_reestimate.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def images(vectors):
    return [vectors[f"in/batch{i}"].transpose(0, 2, 3, 1) for i in range(3)]


@pytest.fixture(scope="module")
def golden_ticket(vectors):
    state = {key.removeprefix("in/state/"): value for key, value in vectors.items()}

    def norm(index, side):
        names = {
            "params": {"weight": "scale", "bias": "bias"},
            "batch_stats": {"running_mean": "mean", "running_var": "var"},
        }[side]
        return {new: state[f"{index}.{old}"] for old, new in names.items()}

    def kernel(index):
        return state[f"{index}.weight"].transpose(2, 3, 1, 0)

    params = {
        "conv1": {"kernel": kernel(0)},
        "bn1": norm(1, "params"),
        "conv2": {"kernel": kernel(3), "bias": state["3.bias"]},
        "bn2": norm(4, "params"),
    }
    stats = {"bn1": norm(1, "batch_stats"), "bn2": norm(4, "batch_stats")}
    return Ticket(params, jax.tree.map(lambda _: None, params), stats)


def counting(ticket):
    """The ticket with a counter in every layer, as PyTorch's layers have."""
    stats = {
        name: {**leaves, "steps": jnp.array(37)} for name, leaves in ticket.batch_stats.items()
    }
    return ticket._replace(batch_stats=stats)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_reproduces_the_reference_vectors(vectors, images, golden_ticket, momentum, count):
    model = Net(momentum, torch=True)
    found = recompute_batch_stats(training(model), counting(golden_ticket), images[:count])
    for name, index in (("bn1", 1), ("bn2", 4)):
        for leaf, key in (("mean", "running_mean"), ("var", "running_var")):
            expected = vectors[f"update_bn/batches{count}/state/{index}.{key}"]
            np.testing.assert_allclose(
                found.batch_stats[name][leaf], expected, rtol=1e-6, atol=1e-6
            )
    output = model.apply(
        {"params": found.params, "batch_stats": found.batch_stats}, images[2], train=False
    )
    expected = vectors[f"update_bn/batches{count}/eval_output_batch2"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("torch", [False, True])
def test_the_variance_is_what_the_layers_store(images, golden_ticket, torch):
    ticket = counting(golden_ticket) if torch else golden_ticket
    found = recompute_batch_stats(training(Net(torch=torch)), ticket, images[:1]).batch_stats
    conv = nn.Conv(6, (3, 3), use_bias=False)
    hidden = conv.apply({"params": golden_ticket.params["conv1"]}, images[0])
    expected = np.var(hidden, axis=(0, 1, 2), ddof=int(torch))
    np.testing.assert_allclose(found["bn1"]["var"], expected, rtol=1e-5)
    assert found["bn1"].get("steps", 37) == 37


def test_every_batch_weighs_the_same():
    model = nn.BatchNorm(use_running_average=False, momentum=0.7)
    apply_fn = partial(model.apply, mutable=["batch_stats"])
    batches = [np.array([[1.0], [2.0], [6.0]], np.float32), np.array([[11.0]], np.float32)]
    stats = model.init(jax.random.key(0), batches[0])["batch_stats"]
    params = {"scale": jnp.ones(1), "bias": jnp.zeros(1)}
    found = recompute_batch_stats(apply_fn, Ticket(params, {}, stats), batches).batch_stats
    np.testing.assert_allclose(found["mean"], [(3 + 11) / 2], rtol=1e-6)
    np.testing.assert_allclose(found["var"], [14 / 3 / 2], rtol=1e-5)


def test_a_generator_of_tuples_compiles_once_per_shape(images):
    calls = []
    model = Net()

    def apply_fn(variables, x, scale):
        calls.append(x.shape)
        return model.apply(variables, x * scale, train=True, mutable=["batch_stats"])

    ticket = ticket_of(model, images[0])
    two = jnp.float32(2)
    first = recompute_batch_stats(apply_fn, ticket, ((x, two) for x in images[:2]))
    traces = len(calls)
    assert traces == 1  # one program for the momentum and for the moments
    recompute_batch_stats(apply_fn, first, [(x, two) for x in images[:2] * 3])
    assert len(calls) == traces
    scaled = recompute_batch_stats(training(model), ticket, [2 * x for x in images[:2]])
    jax.tree.map(np.testing.assert_array_equal, first, scaled)


def test_dtypes_are_kept(images):
    ticket = ticket_of(Net(), images[0])
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), ticket.batch_stats)
    found = recompute_batch_stats(training(Net()), ticket._replace(batch_stats=halves), images[:1])
    exact = recompute_batch_stats(training(Net()), ticket, images[:1])
    jax.tree.map(
        lambda half, full: np.testing.assert_array_equal(half, full.astype(jnp.bfloat16)),
        found.batch_stats,
        exact.batch_stats,
    )


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=6))
def test_folding_gives_the_mean(values):
    trees = [{"bn": [jnp.float32(v), jnp.bfloat16(v)], "steps": jnp.int32(v)} for v in values]
    running = trees[0]
    for count, tree in enumerate(trees[1:], start=2):
        running = average_batch_stats(running, tree, count)
    np.testing.assert_allclose(running["bn"][0], np.mean(values), rtol=1e-5, atol=1e-3)
    assert running["bn"][1].dtype == jnp.bfloat16
    assert running["steps"].dtype == jnp.int32
    assert abs(running["steps"] - np.mean(values)) <= len(values)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint32, jnp.uint8])
def test_counters_are_rounded(dtype):
    running = {"steps": jnp.array(100, dtype)}
    for new, count, expected in ((107, 4, 102), (90, 2, 95), (100, 1, 100)):
        found = average_batch_stats(running, {"steps": jnp.array(new, dtype)}, count)["steps"]
        assert found.dtype == dtype
        assert found == expected


def test_the_count_may_be_traced():
    fold = jax.jit(lambda *args: average_batch_stats(*args))
    a, b = jnp.array([1.0, 2.0]), jnp.array([5.0, 0.0])
    np.testing.assert_array_equal(fold(a, b, 2), [3.0, 1.0])
    np.testing.assert_array_equal(fold(a, b, 1), b)
    assert fold._cache_size() == 1
    assert average_batch_stats({}, {}, 3) == {}


@pytest.mark.parametrize(
    ("new", "count", "message"),
    [
        ({"mean": jnp.ones(1)}, 0, "count must be at least 1, got 0"),
        ({"mean": jnp.ones(1)}, float("nan"), "count must be at least 1, got nan"),
        (
            {"var": jnp.ones(1)},
            2,
            r"the new statistics differ at 'mean': no leaf instead of \(1,\)",
        ),
    ],
)
def test_bad_averages_end_in_one_line(new, count, message):
    with pytest.raises(ValueError, match=message):
        average_batch_stats({"mean": jnp.ones(1)}, new, count)
