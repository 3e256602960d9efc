"""What holds for every network: running statistics, precision, input checks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params


def test_evaluation_leaves_the_statistics_alone_and_training_updates_all(tiny):
    stats = tiny.variables.get("batch_stats", {})
    jax.tree.map(np.testing.assert_array_equal, tiny.evaluated, stats)
    jax.tree.map(
        lambda new, old: np.testing.assert_array_less(0, abs(new - old).max()), tiny.trained, stats
    )


def test_momentum_zero_exposes_the_statistics_of_the_batch(tiny):
    expected = jax.tree.map(
        lambda old, batch: 0.9 * old + 0.1 * batch,
        tiny.variables.get("batch_stats", {}),
        tiny.exposed,
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), tiny.trained, expected)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_state(tiny):
    model = tiny.model.clone(dtype=jnp.bfloat16)
    jaxpr = jax.make_jaxpr(lambda v: model.apply(v, tiny.images, train=False))(tiny.variables)
    products = _products(jaxpr.jaxpr)
    assert products
    assert {str(dtype) for dtype in products} == {"bfloat16"}

    initial = jax.eval_shape(lambda: model.init(jax.random.key(0), tiny.images, train=False))
    logits, stats = tiny.half
    for leaf in jax.tree.leaves((initial, logits, stats)):
        assert leaf.dtype == jnp.float32
    for leaf in jax.tree.leaves((logits, stats)):
        assert jnp.isfinite(leaf).all()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0.1, atol=0.1), stats, tiny.trained
    )


def test_other_channels_than_initialised_for_are_refused(tiny):
    *batch, channels = tiny.images.shape
    message = rf"was initialised for {channels} channels, got shape .*{channels + 1}\)"
    if type(tiny.model).__name__ == "MLP":
        pytest.skip("a dense network has no channels; its first kernel refuses other sizes")
    with pytest.raises(ValueError, match=message):
        tiny.model.apply(tiny.variables, jnp.zeros((*batch, channels + 1)), train=False)


def _products(jaxpr):
    """Returns the result dtypes of all convolutions and matrix products."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            found.append(equation.outvars[0].aval.dtype)
        for inner in jaxprs_in_params(equation.params):
            found.extend(_products(inner))
    return found
