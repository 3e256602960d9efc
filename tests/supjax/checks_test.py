"""Static checks: what passes, and the one line that each refusal prints."""

import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from supjax.checks import check_choice, check_count, check_density, check_fraction


@pytest.mark.parametrize("value", [1, 1.0, 0.05, np.float32(0.5), np.float64(1e-9), jnp.array(0.1)])
def test_a_density_passes_unchanged(value):
    assert check_density(value) is value


@pytest.mark.parametrize("value", [0, 1, 0.0, 0.5, np.float64(1.0)])
def test_a_fraction_passes_unchanged(value):
    assert check_fraction(value, "share") is value


@pytest.mark.parametrize("value", [1, 7, np.int64(3), jnp.array(2)])
def test_a_count_passes_unchanged(value):
    assert check_count(value, "steps") is value


BAD = [
    (lambda: check_density(0), "density must be in (0, 1], got 0"),
    (lambda: check_density(1.5), "density must be in (0, 1], got 1.5"),
    (lambda: check_density(-0.1, "final density"), "final density must be in (0, 1], got -0.1"),
    (lambda: check_density(math.nan), "density must be in (0, 1], got nan"),
    (lambda: check_density("0.5"), "density must be in (0, 1], got '0.5'"),
    (lambda: check_density(True), "density must be in (0, 1], got True"),
    (lambda: check_density(None), "density must be in (0, 1], got None"),
    (lambda: check_fraction(-0.1, "tolerance"), "tolerance must be in [0, 1], got -0.1"),
    (lambda: check_fraction(1.01, "tolerance"), "tolerance must be in [0, 1], got 1.01"),
    (lambda: check_fraction(math.nan, "tolerance"), "tolerance must be in [0, 1], got nan"),
    (lambda: check_count(0, "steps"), "steps must be an integer of at least 1, got 0"),
    (lambda: check_count(-1, "start", least=0), "start must be an integer of at least 0, got -1"),
    (lambda: check_count(2.0, "steps"), "steps must be an integer of at least 1, got 2.0"),
    (lambda: check_count(True, "steps"), "steps must be an integer of at least 1, got True"),
    (lambda: check_count(None, "steps"), "steps must be an integer of at least 1, got None"),
    (lambda: check_choice("c", "rule", ["b", "a"]), "rule must be one of ['a', 'b'], got 'c'"),
    (lambda: check_choice(None, "rule", ["a"]), "rule must be one of ['a'], got None"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_a_refusal_names_the_value_and_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
