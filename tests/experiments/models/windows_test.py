"""Both forms of max-pools and of convolutions on small maps give the same."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import windows


@pytest.fixture
def elsewhere(monkeypatch):
    """Calls a function as on another platform."""

    def call(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(windows, "on_cpu", lambda: False)
            return function(*arguments)

    return call


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 5, 3, 2), (2, 2, 2, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_max_pool_is_the_windowed_maximum(elsewhere, shape, dtype):
    values = jax.random.randint(jax.random.key(0), shape, -2, 2)  # ties in most windows
    x = values.astype(dtype)

    def pooled(x):
        y, back = jax.vjp(windows.max_pool, x)
        cotangent = jnp.arange(1, y.size + 1, dtype=dtype).reshape(y.shape)
        return y, back(cotangent)[0]

    jax.tree.map(np.testing.assert_array_equal, pooled(x), elsewhere(pooled, x))
    jax.tree.map(np.testing.assert_array_equal, jax.jit(pooled)(x), pooled(x))


@pytest.mark.parametrize("place", range(4))
def test_max_pool_keeps_nan(place):
    x = jnp.zeros(4).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
    assert jnp.isnan(windows.max_pool(x)).all()


@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (1, 4), (4, 2), (3, 3)])
def test_convolutions_of_small_maps_agree(elsewhere, sides):
    layer = nn.Conv(4, (3, 3), padding=1)
    x = jax.random.normal(jax.random.key(0), (2, *sides, 3))
    variables = layer.init(jax.random.key(1), x)
    cotangent = jax.random.normal(jax.random.key(2), (2, *sides, 4))

    def value_and_gradients(variables, x):
        def convolved(variables, x):
            return windows.convolve(lambda x: layer.apply(variables, x), x)

        y, back = jax.vjp(convolved, variables, x)
        return y, back(cotangent)

    def curvature(variables, x):
        gradient = jax.grad(lambda v: jnp.square(value_and_gradients(v, x)[0]).sum())
        return jax.jvp(gradient, (variables,), (variables,))[1]

    for function in (value_and_gradients, curvature):
        ours, plain = function(variables, x), elsewhere(function, variables, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), ours, plain)


def test_several_convolutions_map_over_an_axis():
    layer = nn.Conv(2, (3, 3), padding=1)
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 2, 1))
    keys = jax.random.split(jax.random.key(1), 3)
    variables = jax.vmap(lambda key: layer.init(key, x[0]))(keys)

    def convolved(variables, x):
        return windows.convolve(lambda x: layer.apply(variables, x), x)

    together = jax.vmap(convolved)(variables, x)
    alone = [convolved(jax.tree.map(lambda leaf, i=i: leaf[i], variables), x[i]) for i in range(3)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-5, atol=1e-6)
