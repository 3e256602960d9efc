"""The phases of a run in exact integers."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supjax import CyclePlan


@pytest.mark.parametrize(
    ("epochs", "fraction", "cycle", "normal", "tickets"),
    [
        (250, 0.1, 8, 226, 3),  # CIFAR: 25 is cut to 24
        (100, 0.08, 2, 92, 4),  # ImageNet
        (100, 0.29, 1, 71, 29),  # 100 * 0.29 is 28.999999999999996 in binary
        (50, 0.58, 1, 21, 29),
        (100, "0.29", 29, 71, 1),
        (100, Fraction(1, 3), 11, 67, 3),
        (10, 0.1, 2, 10, 0),  # not even one cycle fits
        (10, 0, 2, 10, 0),
        (10, 1, 5, 0, 2),  # nothing but cycles
    ],
)
def test_epochs_by_hand(epochs, fraction, cycle, normal, tickets):
    plan = CyclePlan.from_epochs(
        epochs, cycle_fraction=fraction, cycle_epochs=cycle, steps_per_epoch=7
    )
    assert plan == (7 * normal, 7 * cycle, tickets)
    assert plan.total_steps == 7 * epochs


@pytest.mark.parametrize(
    ("epochs", "fraction", "plan"),
    [
        (250, 0.1, (226, 8, 3)),  # the lengths of the paper are a third of the share
        (100, 0.08, (92, 2, 4)),
        (50, 0.1, (45, 1, 5)),
        (10, 0.3, (7, 1, 3)),
        (5, 0.1, (4, 1, 1)),  # half an epoch holds no cycle: a whole one is taken
        (2, 0.1, (1, 1, 1)),
        (1, 0.1, (1, 1, 0)),
        (10, 0, (10, 1, 0)),
    ],
)
def test_a_length_that_is_not_given_scales_with_the_budget(epochs, fraction, plan):
    assert CyclePlan.from_epochs(epochs, cycle_fraction=fraction, steps_per_epoch=1) == plan


@pytest.mark.parametrize(
    ("arguments", "plan"),
    [
        ({"total_steps": 100, "cyclic_steps": 25, "cycle_steps": 8}, (76, 8, 3)),
        ({"total_steps": 100, "cyclic_steps": 0, "cycle_steps": 8}, (100, 8, 0)),
        ({"total_steps": 24, "cyclic_steps": 24, "cycle_steps": 8}, (0, 8, 3)),
    ],
)
def test_steps_by_hand(arguments, plan):
    assert CyclePlan.from_steps(**arguments) == plan


@given(st.integers(1, 400), st.integers(0, 100), st.integers(1, 20), st.integers(1, 9))
def test_the_phases_tile_the_run(epochs, percent, cycle, steps):
    plan = CyclePlan.from_epochs(
        max(epochs, cycle), cycle_fraction=percent / 100, cycle_epochs=cycle, steps_per_epoch=steps
    )
    assert plan.total_steps == steps * max(epochs, cycle)
    assert plan.cyclic_steps <= plan.total_steps * Fraction(percent, 100)
    assert len(plan.exploration_steps) == len(plan.ticket_steps) == plan.num_cycles
    bounds = [*plan.exploration_steps, plan.total_steps]
    assert bounds[0] == plan.normal_steps
    assert [step + 1 for step in plan.ticket_steps] == bounds[1:]


def from_epochs(epochs=10, fraction=0.1, cycle=1, steps=1):
    return CyclePlan.from_epochs(
        epochs, cycle_fraction=fraction, cycle_epochs=cycle, steps_per_epoch=steps
    )


def from_steps(total=100, cyclic=20, cycle=5):
    return CyclePlan.from_steps(total, cyclic_steps=cyclic, cycle_steps=cycle)


BAD = [
    (lambda: from_epochs(epochs=0), "epochs must be an integer of at least 1, got 0"),
    (lambda: from_epochs(cycle=0), "cycle_epochs must be an integer of at least 1, got 0"),
    (lambda: from_epochs(steps=-1), "steps_per_epoch must be an integer of at least 1, got -1"),
    (lambda: from_epochs(fraction=1.5), "cycle_fraction must be in [0, 1], got 1.5"),
    (lambda: from_epochs(fraction=-0.1), "cycle_fraction must be in [0, 1], got -0.1"),
    (lambda: from_epochs(fraction="a tenth"), "not a finite number: 'a tenth'"),
    (lambda: from_epochs(cycle=11), "a cycle of 11 epochs is longer than the run of 10"),
    (lambda: from_steps(total=-5), "total_steps must be an integer of at least 1, got -5"),
    (lambda: from_steps(cyclic=-5), "cyclic_steps must be an integer of at least 0, got -5"),
    (lambda: from_steps(cycle=0), "cycle_steps must be an integer of at least 1, got 0"),
    (lambda: from_steps(cycle=1.5), "cycle_steps must be an integer of at least 1, got 1.5"),
    (
        lambda: from_steps(cyclic=101),
        "cyclic phase of 101 steps is longer than the run of 100",
    ),
    (
        lambda: from_steps(cycle=21),
        "cycle of 21 steps is longer than the cyclic phase of 20",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
