"""The numbers of a diagnosis on networks whose losses are known, and the advice from numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supjax import Ticket
from supjax.adaptive import BARRIER_SHARE
from supjax.analysis import Diagnosis, advice, diagnose, disagreement
from supjax.analysis.calibration import losses, nll
from supjax.paired import paired_difference

INPUTS = jax.random.normal(jax.random.key(0), (64, 3))
LABELS = jnp.argmax(INPUTS @ jnp.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), axis=1)


def network(seed):
    kernel = jnp.eye(3, 2) + 0.3 * jax.random.normal(jax.random.key(seed), (3, 2))
    return Ticket({"w": kernel}, {"w": jnp.ones((3, 2), bool)}, {"scale": jnp.ones(())})


def predict(ticket):
    return INPUTS @ ticket.params["w"] * ticket.batch_stats["scale"]


TICKETS = [network(seed) for seed in range(3)]
MEAN = TICKETS[0]._replace(params={"w": sum(t.params["w"] for t in TICKETS) / 3})


def loss(ticket):
    return float(nll(predict(ticket), LABELS))


def scaled(network, members, shares):
    """Re-estimates nothing but a scale, which becomes the number of members."""
    np.testing.assert_allclose(sum(shares), 1)
    return network._replace(batch_stats={"scale": jnp.float32(len(members))})


@pytest.mark.parametrize("prepare", [None, scaled])
def test_the_numbers_are_those_of_the_definitions(prepare):
    found = diagnose(TICKETS, MEAN, predict, LABELS, prepare=prepare)
    means = [loss(ticket) for ticket in TICKETS]
    np.testing.assert_allclose(found.losses, means, rtol=1e-6)
    np.testing.assert_allclose(found.changes, np.diff(means), atol=1e-6)
    kernels = [np.asarray(ticket.params["w"], np.float64) for ticket in TICKETS]
    for i in range(2):
        first, second = kernels[i : i + 2]
        norms = np.linalg.norm(first) * np.linalg.norm(second)
        gap = np.linalg.norm(first - second) / norms**0.5
        np.testing.assert_allclose(found.distances[i], gap, rtol=1e-5)
        logits = [predict(ticket) for ticket in TICKETS[i : i + 2]]
        assert found.disagreements[i] == disagreement(*logits)
        middle = TICKETS[0]._replace(params={"w": jnp.asarray((first + second) / 2, jnp.float32)})
        middle = middle if prepare is None else scaled(middle, [0, 0], [1])
        barrier = loss(middle) - (means[i] + means[i + 1]) / 2
        np.testing.assert_allclose(found.barriers[i], barrier, atol=1e-6)
        each = [losses(one, LABELS) for one in logits]
        error = paired_difference(*each).standard_error
        np.testing.assert_allclose(found.change_errors[i], error, rtol=1e-5)
    norms = [np.linalg.norm(kernel) for kernel in kernels]
    ratio = np.linalg.norm(MEAN.params["w"]) / np.mean(norms)
    np.testing.assert_allclose(found.norm_ratio, ratio, rtol=1e-5)
    used = MEAN if prepare is None else scaled(MEAN, TICKETS, [1])
    np.testing.assert_allclose(found.superposition_loss, loss(used), rtol=1e-6)
    if prepare is None:
        assert found.reestimation_gain is None
    else:
        np.testing.assert_allclose(found.reestimation_gain, loss(MEAN) - loss(used), atol=1e-6)
    assert (found.images, found.exploration_costs) == (64, None)


def test_what_exploration_costs_is_measured_against_the_ticket_before():
    means = [loss(ticket) for ticket in TICKETS]
    found = diagnose(TICKETS, MEAN, predict, LABELS, after_exploration=[2.0, 3.0])
    np.testing.assert_allclose(found.exploration_costs, [2 - means[0], 3 - means[1]], rtol=1e-5)


def test_the_same_network_twice_has_no_distance_and_no_barrier():
    found = diagnose([TICKETS[0]] * 2, TICKETS[0], predict, LABELS)
    numbers = (found.changes, found.change_errors, found.distances, found.disagreements)
    assert numbers == ((0.0,),) * 4
    np.testing.assert_allclose([found.barriers[0], found.norm_ratio], [0, 1], atol=1e-6)
    assert advice(found) == "tickets hardly differ: raise high"


GOOD = Diagnosis(
    losses=(0.4, 0.39, 0.38),
    changes=(-0.01, -0.01),
    change_errors=(0.01, 0.01),
    distances=(0.3, 0.3),
    disagreements=(0.015, 0.02),
    barriers=(0.0, -0.02),
    norm_ratio=0.98,
    superposition_loss=0.36,
    reestimation_gain=0.01,
    exploration_costs=None,
    images=5000,
)
BASINS = "tickets are in different basins: lower high"
GROWN = "a cycle does not train what it grows: lower exploration"
LEARNING = "still learning in the cycles: lengthen the normal phase"
ALIKE = "tickets hardly differ: raise high"
FINE = "nothing to change"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, FINE),
        ({"barriers": (0.0, 1.01 * BARRIER_SHARE * 0.385)}, BASINS),
        ({"barriers": (0.99 * BARRIER_SHARE * 0.395, 0.0)}, FINE),
        ({"barriers": (np.nan, 0.0)}, BASINS),
        ({"changes": (-0.01, 0.021)}, GROWN),
        ({"changes": (-0.01, 0.019)}, FINE),
        ({"changes": (0.1, -0.01)}, FINE),  # the first cycle's fall was made good
        ({"changes": (-0.01, -0.04)}, LEARNING),  # more than a tenth of 0.39, and sure
        ({"changes": (-0.01, -0.038)}, FINE),
        ({"changes": (-0.01, -0.04), "change_errors": (0.01, 0.021)}, FINE),
        ({"disagreements": (0.007, 0.007)}, ALIKE),
        ({"disagreements": (0.007, 0.009)}, FINE),
        # of several reasons the one that hides the others
        ({"disagreements": (0.0, 0.0), "barriers": (0.1, 0.1)}, BASINS),
        ({"disagreements": (0.0, 0.0), "changes": (-0.01, -0.04)}, LEARNING),
    ],
)
def test_the_advice(change, expected):
    assert advice(GOOD._replace(**change)) == expected


OTHER = Ticket({"w": jnp.ones((2, 2))}, {"w": None}, {"scale": jnp.ones(())})


@pytest.mark.parametrize(
    ("tickets", "options", "message"),
    [
        (TICKETS[:1], {}, "a diagnosis needs at least 2 tickets, got 1"),
        (
            TICKETS,
            {"after_exploration": [1.0]},
            "after_exploration must have a loss for each of 2 cycles, got 1",
        ),
        (
            [TICKETS[0], OTHER],
            {},
            "ticket 1 differs from the first in params at 'w': (2, 2) instead of (3, 2)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tickets, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        diagnose(tickets, MEAN, predict, LABELS, **options)
