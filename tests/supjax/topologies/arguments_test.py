"""What every factory refuses, in one line."""

import re

import jax
import jax.numpy as jnp
import pytest

from supjax import cosine_fraction
from supjax.topologies import make_topology

KEY, BIAS = jax.random.key(0), {"bias": jnp.ones(3)}
MOVING = ["set", "rigl", "snfs", "dsr", "mest"]
PERIODIC = [*MOVING, "granet", "gmp"]
RANDOM = ["static", *MOVING, "set_itop", "rigl_itop", "granet"]
NEEDS = {name: {"stop": 100} for name in ("set_itop", "rigl_itop")}
NEEDS |= {name: {"ramp_end": 20} for name in ("gmp", "granet")}
NO_KERNEL = "params hold no maskable weight (a kernel by name and shape, or filter_fn's choice)"


def build(name, **kwargs):
    return make_topology(name, **{"density": 0.3, **NEEDS.get(name, {}), **kwargs})


LEAST = "must be an integer of at least"
BAD = [
    *(("update_every", 0, name, f"update_every {LEAST} 1, got 0") for name in PERIODIC),
    *(("drop_fraction", 1.5, name, "drop fraction must be in [0, 1], got 1.5") for name in MOVING),
    *(("stop", -1, name, f"stop {LEAST} 0, got -1") for name in ["set", "snfs", "dsr", "mest"]),
    *(
        ("distribution", "ert", name, "distribution must be one of ['erk', 'uniform'], got 'ert'")
        for name in [*RANDOM, "gmp"]
    ),
    ("stop", 0, "rigl", f"stop {LEAST} 1, got 0"),
    ("stop", None, "set_itop", f"stop {LEAST} 1, got None"),
    ("drop_fraction", 2, "rigl_itop", "initial drop fraction must be in [0, 1], got 2"),
    ("momentum", 1.1, "snfs", "momentum must be in [0, 1], got 1.1"),
    ("tolerance", -0.1, "dsr", "tolerance must be in [0, 1], got -0.1"),
    ("gradient_weight", -1, "mest", "gradient_weight must be at least 0, got -1"),
    ("gradient_weight", float("nan"), "mest", "gradient_weight must be at least 0, got nan"),
    ("ramp_start", 20, "gmp", f"ramp_end {LEAST} 21, got 20"),
    ("ramp_start", -1, "granet", f"ramp_start {LEAST} 0, got -1"),
    ("initial_density", 0.2, "gmp", "the ramp must fall: final density 0.3 is above initial 0.2"),
    ("initial_density", 2, "granet", "initial density must be in (0, 1], got 2"),
    ("stop", 999, "granet", "stop must be at least 1000, or the density is never reached; got 999"),
    ("rounds", 0, "synflow", f"rounds {LEAST} 1, got 0"),
]


@pytest.mark.parametrize(("argument", "value", "name", "message"), BAD)
def test_a_value_out_of_range_is_named(argument, value, name, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(name, **{argument: value})


@pytest.mark.parametrize("name", RANDOM)
def test_params_without_a_kernel_are_refused(name):
    with pytest.raises(ValueError, match=f"^{re.escape(NO_KERNEL)}$"):
        build(name).init(KEY, BIAS)


@pytest.mark.parametrize(
    ("name", "needs"), [("snip", "loss_fn"), ("grasp", "loss_fn"), ("synflow", "output_fn")]
)
def test_methods_that_score_the_network_ask_for_what_they_need(name, needs):
    message = f"{name} scores the network at init: pass {needs}= to its init function"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(name).init(KEY, {"w": jnp.ones((2, 2))})


@pytest.mark.parametrize("name", [*MOVING, "granet"])
def test_a_schedule_serves_as_drop_fraction(name):
    topology = build(name, drop_fraction=cosine_fraction(0.5, 100))
    assert float(topology.drop_fraction(50)) == pytest.approx(0.25)
