"""The rectifier in both forms: same values, same derivatives, and which platform gets which."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import activations
from experiments.models.activations import relu

SHAPES = [(7,), (2, 3, 5, 1), (0, 4)]
DTYPES = [jnp.float32, jnp.bfloat16]


@pytest.fixture(params=DTYPES, ids=str)
def values(request):
    special = [-jnp.inf, -1e-30, 0.0, 1e-30, jnp.inf, jnp.nan]
    drawn = np.random.default_rng(0).standard_normal(29)
    return jnp.concatenate([jnp.array(special), jnp.asarray(drawn)]).astype(request.param)


def equal(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


def test_values_and_first_derivatives_are_those_of_the_maximum(values):
    numbers = values[jnp.isfinite(values)]
    slope = lambda f: jax.grad(lambda x: (f(x) * numbers).sum())(numbers)  # noqa: E731
    equal(relu(values), nn.relu(values))
    equal(jax.jit(relu)(values), nn.relu(values))
    equal(slope(relu), slope(nn.relu))
    equal(jax.jvp(relu, (numbers,), (numbers,))[1], jax.jvp(nn.relu, (numbers,), (numbers,))[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape(shape):
    x = jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)
    equal(relu(x), nn.relu(x))


@pytest.mark.parametrize("mapped", [jax.vmap, partial(jax.pmap, axis_name="devices")])
def test_under_a_mapped_axis(mapped):
    x = jnp.asarray(np.random.default_rng(2).standard_normal((4, 6)), jnp.float32)
    equal(mapped(relu)(x), nn.relu(x))
    equal(mapped(jax.grad(lambda x: jnp.square(relu(x)).sum()))(x), 2 * nn.relu(x))


def test_hessian_vector_products_are_those_of_the_maximum():
    x, direction = jnp.asarray(np.random.default_rng(3).standard_normal((2, 9)), jnp.float32)

    def products(f):
        gradient = jax.grad(lambda x: jnp.sin(f(x) ** 3).sum())
        backward = jax.grad(lambda x: gradient(x) @ direction)(x)
        return jax.jvp(gradient, (x,), (direction,))[1], backward

    jax.tree.map(equal, products(relu), products(nn.relu))


def test_a_network_trains_alike_with_either_form(tiny, monkeypatch):
    def loss(params):
        variables = tiny.variables | {"params": params}
        logits, _ = tiny.model.apply(variables, tiny.images, train=True, mutable=["batch_stats"])
        return jnp.square(logits).sum()

    # Two functions, for JAX would find the trace of a function that it has seen.
    selecting = jax.jit(jax.value_and_grad(loss))(tiny.variables["params"])
    monkeypatch.setattr(activations, "on_cpu", lambda: False)
    maximal = jax.jit(jax.value_and_grad(lambda params: loss(params)))(tiny.variables["params"])
    for a, b in zip(jax.tree.leaves(selecting), jax.tree.leaves(maximal), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * (1 + abs(np.asarray(b)).max()))


def test_only_cpu_selects(monkeypatch):
    x = jnp.ones(3)
    assert activations.on_cpu()
    assert "select_n" in str(jax.make_jaxpr(relu)(x))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not activations.on_cpu()
    assert "max" in str(jax.make_jaxpr(lambda x: relu(x))(x))
