"""Batch norm beside PyTorch's rules and linen's layer, and under a mapped axis."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models.layers import BatchNorm

SHAPE = (8, 3, 3, 5)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return jnp.asarray(2 + 3 * rng.standard_normal(SHAPE), jnp.float32)


@pytest.fixture
def variables():
    rng = np.random.default_rng(1)
    draw = lambda: jnp.asarray(rng.uniform(0.5, 1.5, SHAPE[-1:]), jnp.float32)  # noqa: E731
    return {
        "params": {"scale": draw(), "bias": draw()},
        "batch_stats": {"mean": draw(), "var": draw()},
    }


def train(layer, variables, x):
    y, updates = layer.apply(variables, x, mutable=["batch_stats"])
    return y, updates["batch_stats"]


def test_training_normalises_by_the_biased_and_records_the_unbiased_variance(images, variables):
    y, stats = train(BatchNorm(use_running_average=False), variables, images)
    values = np.asarray(images, np.float64).reshape(-1, SHAPE[-1])
    params, old = jax.device_get((variables["params"], variables["batch_stats"]))
    expected = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5)
    expected = expected * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected.reshape(SHAPE), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["mean"], 0.9 * old["mean"] + 0.1 * values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        stats["var"], 0.9 * old["var"] + 0.1 * values.var(0, ddof=1), rtol=1e-5
    )


def test_evaluation_and_gradients_equal_linen(images, variables):
    def outputs(layer_type, running):
        def loss(params, x):
            layer = layer_type(use_running_average=running, momentum=0.9, epsilon=1e-5)
            y, _ = layer.apply(variables | {"params": params}, x, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y)), y

        return jax.grad(loss, (0, 1), has_aux=True)(variables["params"], images)

    for running in (True, False):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
            outputs(BatchNorm, running),
            outputs(nn.BatchNorm, running),
        )


@pytest.mark.parametrize("mapped", [jax.vmap, jax.pmap])
def test_an_axis_name_gives_the_statistics_of_the_whole_batch(mapped, images, variables):
    layer = BatchNorm(use_running_average=False, axis_name="devices")
    split = images.reshape(4, 2, *SHAPE[1:])
    y, stats = mapped(lambda x: train(layer, variables, x), axis_name="devices")(split)
    whole, whole_stats = train(layer.clone(axis_name=None), variables, images)
    np.testing.assert_allclose(y.reshape(SHAPE), whole, rtol=1e-4, atol=1e-5)
    for name in ("mean", "var"):
        for device in range(4):
            np.testing.assert_allclose(stats[name][device], whole_stats[name], rtol=1e-5)


def test_without_an_axis_name_every_device_has_its_own_statistics(images, variables):
    layer = BatchNorm(use_running_average=False)
    split = images.reshape(4, 2, *SHAPE[1:])
    _, stats = jax.vmap(lambda x: train(layer, variables, x), axis_name="devices")(split)
    _, first = train(layer, variables, split[0])
    np.testing.assert_allclose(stats["var"][0], first["var"], rtol=1e-6)
    assert (stats["var"][0] != stats["var"][1]).all()


def test_initialisation_records_nothing(images):
    layer = BatchNorm(use_running_average=False, axis_name="devices")
    stats = layer.init(jax.random.key(0), images)["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(5))
    np.testing.assert_array_equal(stats["var"], np.ones(5))


def test_one_value_per_channel_is_refused_in_training_only(variables):
    x = jnp.ones((1, 5))
    assert BatchNorm(use_running_average=True).apply(variables, x).shape == (1, 5)
    with pytest.raises(ValueError, match=r"more than one value per channel, got input \(1, 5\)"):
        train(BatchNorm(use_running_average=False), variables, x)
