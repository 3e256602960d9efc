"""Paired differences of losses beside NumPy's, compiled as well."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supjax.paired import paired_difference


def test_it_is_the_mean_difference_and_its_standard_error():
    rng = np.random.RandomState(0)
    hard = 5 * rng.exponential(size=400)
    first, second = hard + 0.1 * rng.standard_normal((2, 400)) + [[0.05], [0.0]]
    found = jax.jit(paired_difference)(first.astype(np.float32), second.astype(np.float32))
    each = first - second
    np.testing.assert_allclose(found.difference, each.mean(), rtol=1e-4)
    np.testing.assert_allclose(found.standard_error, each.std(ddof=1) / 20, rtol=1e-4)
    assert found.standard_error < 0.1 * first.std() / 20  # what is hard for both cancels


def test_equal_losses_have_no_error_and_one_example_has_none_that_is_known():
    losses = jnp.array([0.1, 2.0, 0.3])
    assert tuple(map(float, paired_difference(losses, losses))) == (0.0, 0.0)
    difference, error = paired_difference(jnp.ones(1), jnp.zeros(1))
    assert difference == 1
    assert jnp.isnan(error)


@pytest.mark.parametrize(
    ("first", "second", "error", "message"),
    [
        (jnp.ones(2), jnp.ones(3), ValueError, "losses differ in shape: (2,) and (3,)"),
        (0.5, jnp.ones(1), ValueError, "first must have shape (examples,), one loss each, got ()"),
        (
            jnp.ones(2),
            jnp.ones((2, 2)),
            ValueError,
            "second must have shape (examples,), one loss each, got (2, 2)",
        ),
        (jnp.ones(2), jnp.ones(2, bool), TypeError, "second must be floating-point, got bool"),
        (
            jnp.ones(0),
            jnp.ones(0),
            ValueError,
            "first must have shape (examples,), one loss each, got (0,)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(first, second, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        paired_difference(first, second)
