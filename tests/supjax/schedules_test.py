"""Schedules: hand-worked values, every boundary, and the same numbers from a traced step."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import supjax

LOW, HIGH = 0.001, 0.005


def table(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_cycle_by_hand():
    # t = 1/4, 2/4, 3/4, 1: half-way up, high, half-way down, low; then again.
    schedule = supjax.cyclic_schedule(LOW, HIGH, 4)
    assert table(schedule, range(6)) == pytest.approx([0.003, 0.005, 0.003, 0.001, 0.003, 0.005])


def test_cycle_by_hand_as_the_authors_count_it():
    # t = 0, 1/4, 2/4, 3/4.
    schedule = supjax.cyclic_schedule(LOW, HIGH, 4, endpoint=False)
    assert table(schedule, range(5)) == pytest.approx([0.001, 0.003, 0.005, 0.003, 0.001])


@given(st.integers(1, 500), st.floats(1e-6, 0.1), st.floats(0, 1))
def test_the_last_step_of_a_cycle_sees_exactly_the_lowest_rate(cycle_steps, low, above):
    schedule = supjax.cyclic_schedule(low, low + above, cycle_steps)
    rates = table(schedule, range(cycle_steps))
    assert rates[-1] == low
    assert min(rates) >= low * (1 - 1e-12)
    assert max(rates) <= (low + above) * (1 + 1e-12)


def test_the_learning_rate_of_a_whole_run():
    plan = supjax.CyclePlan(normal_steps=3, cycle_steps=4, num_cycles=2)
    normal = supjax.step_decay_schedule(0.1, [1, 2])
    schedule = supjax.sup_tickets_schedule(normal, plan, LOW, HIGH)
    rates = table(schedule, range(plan.total_steps))
    assert rates == pytest.approx([0.1, 0.01, 0.001, *[0.003, 0.005, 0.003, 0.001] * 2])
    assert [rates[step] for step in plan.ticket_steps] == [LOW, LOW]


def test_without_cycles_the_run_keeps_its_own_schedule():
    plan = supjax.CyclePlan.from_epochs(10, cycle_fraction=0, cycle_epochs=1, steps_per_epoch=2)
    assert supjax.sup_tickets_schedule(len, plan, LOW, HIGH) is len


def test_the_cyclic_phase_does_not_ask_the_normal_schedule_for_another_rate():
    plan = supjax.CyclePlan(normal_steps=2, cycle_steps=2, num_cycles=1)
    schedule = supjax.sup_tickets_schedule(lambda step: jnp.nan, plan, LOW, HIGH)
    assert table(schedule, [2, 3]) == pytest.approx([HIGH, LOW])


def test_step_decay_by_hand():
    schedule = supjax.step_decay_schedule(0.1, [30, 60, 85], warmup_steps=5)
    assert table(schedule, [0, 3, 4, 29, 30, 59, 60, 85, 99]) == pytest.approx(
        [0.02, 0.08, 0.1, 0.1, 0.01, 0.01, 0.001, 0.0001, 0.0001], rel=1e-12
    )


def test_a_boundary_that_is_named_twice_counts_twice():
    assert float(supjax.step_decay_schedule(0.1, [5, 5])(5)) == pytest.approx(0.001, rel=1e-12)


def test_cosine_fraction_by_hand():
    # 0.3/2 (1 + cos(pi/3)) = 0.225, and 0 from the end on.
    schedule = supjax.cosine_fraction(0.3, 75)
    assert table(schedule, [0, 25, 75, 76, 1000]) == pytest.approx([0.3, 0.225, 0, 0, 0], abs=1e-15)
    assert float(supjax.cosine_fraction(0.5, 10, final=0.005)(10)) == 0.005


def test_staged_fraction_by_hand():
    schedule = supjax.staged_fraction(0.4, [10, 20, 20], factor=0.5)
    assert table(schedule, [0, 9, 10, 19, 20, 99]) == [0.4, 0.4, 0.2, 0.2, 0.05, 0.05]
    assert table(supjax.staged_fraction(0.4, [10], factor=0), [9, 10]) == [0.4, 0]


def test_density_ramp_by_hand():
    # Sparsity 0.5 (1 - (1 - 10/20)^3) = 0.4375 after 10 of 20 steps.
    schedule = supjax.cubic_density_ramp(1.0, 0.5, 0, 20)
    assert table(schedule, [0, 10, 20, 21]) == [1, 1 - 0.4375, 0.5, 0.5]
    shifted = supjax.cubic_density_ramp(0.5, 0.05, 7, 10)
    assert table(shifted, [0, 7, 10]) == [0.5, 0.5, 0.05]
    assert float(shifted(8)) == pytest.approx(0.05 + 0.45 * 8 / 27, rel=1e-12)


@given(st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 50), st.integers(1, 50))
def test_density_ramp_falls_from_the_initial_to_exactly_the_final_density(a, b, start, length):
    initial, final = max(a, b), min(a, b)
    schedule = supjax.cubic_density_ramp(initial, final, start, start + length)
    values = table(schedule, range(start + length + 3))
    assert values[start] == pytest.approx(initial, rel=1e-12)
    assert values[start + length :] == [final] * 3
    assert all(late <= early for early, late in itertools.pairwise(values))


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"interval": 3}, [2, 5, 8, 11]),  # the first update after `interval` steps
        ({"interval": 1}, list(range(12))),
        ({"interval": 4, "start": 4}, [7, 11]),
        ({"interval": 4, "start": 3}, [3, 7, 11]),  # the start itself may carry an update
        ({"interval": 4, "stop": 7}, [3]),  # the stop may not
        ({"interval": 4, "stop": 8}, [3, 7]),
        ({"interval": 4, "stop": 0}, []),
        ({"interval": 100}, []),
    ],
)
def test_update_steps(arguments, steps):
    due = supjax.every(**arguments)
    assert [step for step in range(12) if due(step)] == steps
    assert np.flatnonzero(jax.vmap(due)(jnp.arange(12))).tolist() == steps


SCHEDULES = {
    "cyclic": supjax.cyclic_schedule(LOW, HIGH, 7),
    "authors": supjax.cyclic_schedule(LOW, HIGH, 7, endpoint=False),
    "run": supjax.sup_tickets_schedule(
        supjax.step_decay_schedule(0.1, [3, 9], warmup_steps=2),
        supjax.CyclePlan(normal_steps=12, cycle_steps=5, num_cycles=3),
        LOW,
        HIGH,
    ),
    "constant": supjax.constant_fraction(0.5),
    "cosine": supjax.cosine_fraction(0.5, 20, final=0.005),
    "staged": supjax.staged_fraction(0.5, [4, 11]),
    "cubic": supjax.cubic_density_ramp(1.0, 0.05, 3, 17),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_traced_steps_give_the_same_values(name):
    schedule, steps = SCHEDULES[name], np.arange(27)
    traced = jax.jit(lambda steps: jax.lax.map(schedule, steps))(steps)
    np.testing.assert_allclose(traced, table(schedule, steps.tolist()), rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_python_step_gives_float64(name):
    value = SCHEDULES[name](6)
    assert isinstance(value, float | np.ndarray | np.float64)
    assert np.asarray(value).dtype == np.float64


CYCLE = "the cycle needs 0 <= low <= high, got"
PLAN = supjax.CyclePlan(normal_steps=2, cycle_steps=2, num_cycles=0)
BAD = [
    (lambda: supjax.cyclic_schedule(0.1, 0.01, 8), f"{CYCLE} low=0.1, high=0.01"),
    (lambda: supjax.cyclic_schedule(-0.1, 0.01, 8), f"{CYCLE} low=-0.1, high=0.01"),
    (lambda: supjax.cyclic_schedule(math.nan, 0.01, 8), f"{CYCLE} low=nan, high=0.01"),
    (
        lambda: supjax.cyclic_schedule(0.01, 0.1, 0),
        "cycle_steps must be an integer of at least 1, got 0",
    ),
    (
        lambda: supjax.cyclic_schedule(0.01, 0.1, 2.5),
        "cycle_steps must be an integer of at least 1, got 2.5",
    ),
    (
        lambda: supjax.sup_tickets_schedule(len, PLAN, 0.1, 0.01),
        f"{CYCLE} low=0.1, high=0.01",
    ),
    (lambda: supjax.step_decay_schedule(-1, [3]), "peak must be at least 0, got -1"),
    (
        lambda: supjax.step_decay_schedule(0.1, [9, 3]),
        "boundaries must ascend from 0 on, got [9, 3]",
    ),
    (
        lambda: supjax.step_decay_schedule(0.1, [-3]),
        "boundaries must ascend from 0 on, got [-3]",
    ),
    (
        lambda: supjax.step_decay_schedule(0.1, [3], factor=0),
        "factor must be in (0, 1], got 0",
    ),
    (
        lambda: supjax.step_decay_schedule(0.1, [3], warmup_steps=-1),
        "warmup_steps must be an integer of at least 0, got -1",
    ),
    (lambda: supjax.constant_fraction(1.5), "drop fraction must be in [0, 1], got 1.5"),
    (lambda: supjax.cosine_fraction(-0.5, 9), "initial drop fraction must be in [0, 1], got -0.5"),
    (
        lambda: supjax.cosine_fraction(0.5, 9, final=2),
        "final drop fraction must be in [0, 1], got 2",
    ),
    (
        lambda: supjax.cosine_fraction(0.5, 0),
        "end_step must be an integer of at least 1, got 0",
    ),
    (lambda: supjax.staged_fraction(9, [1]), "initial drop fraction must be in [0, 1], got 9"),
    (lambda: supjax.staged_fraction(0.5, [1], factor=2), "factor must be in [0, 1], got 2"),
    (
        lambda: supjax.staged_fraction(0.5, [2, 1]),
        "boundaries must ascend from 0 on, got [2, 1]",
    ),
    (
        lambda: supjax.cubic_density_ramp(1.5, 0.1, 0, 9),
        "initial density must be in (0, 1], got 1.5",
    ),
    (lambda: supjax.cubic_density_ramp(1.0, 0, 0, 9), "final density must be in (0, 1], got 0"),
    (
        lambda: supjax.cubic_density_ramp(0.1, 0.5, 0, 9),
        "the ramp must fall: final density 0.5 is above initial 0.1",
    ),
    (
        lambda: supjax.cubic_density_ramp(1.0, 0.1, -1, 9),
        "start must be an integer of at least 0, got -1",
    ),
    (
        lambda: supjax.cubic_density_ramp(1.0, 0.1, 9, 9),
        "end must be an integer of at least 10, got 9",
    ),
    (lambda: supjax.every(0), "interval must be an integer of at least 1, got 0"),
    (lambda: supjax.every(3, start=-1), "start must be an integer of at least 0, got -1"),
    (lambda: supjax.every(3, start=5, stop=4), "stop must be an integer of at least 5, got 4"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_sawtooth_by_hand():
    # t = 1/4, 2/4, 3/4, 1: it never sees the top, as the triangle never sees the first bottom.
    schedule = supjax.sawtooth_schedule(LOW, HIGH, 4)
    assert table(schedule, range(5)) == pytest.approx([0.004, 0.003, 0.002, 0.001, 0.004])
    counted_from_0 = supjax.sawtooth_schedule(LOW, HIGH, 4, endpoint=False)
    assert table(counted_from_0, range(5)) == pytest.approx([0.005, 0.004, 0.003, 0.002, 0.005])


@pytest.mark.parametrize(
    ("cycle", "rates"),
    [
        ("triangular", [0.003, 0.005, 0.003, 0.001]),
        ("sawtooth", [0.004, 0.003, 0.002, 0.001]),
        ("constant", [0.005] * 4),
    ],
)
def test_every_cycle_follows_the_normal_phase(cycle, rates):
    plan = supjax.CyclePlan(normal_steps=2, cycle_steps=4, num_cycles=2)
    schedule = supjax.sup_tickets_schedule(lambda step: 0.1, plan, LOW, HIGH, cycle=cycle)
    assert table(schedule, range(10)) == pytest.approx([0.1, 0.1, *rates * 2])
    traced = jax.vmap(schedule)(jnp.arange(10))
    np.testing.assert_allclose(traced, [0.1, 0.1, *rates * 2], rtol=1e-6)


def test_cycles_that_are_none_are_refused():
    plan = supjax.CyclePlan(normal_steps=2, cycle_steps=4, num_cycles=2)
    with pytest.raises(ValueError, match=r"cycle must be one of .*, got 'cosine'"):
        supjax.sup_tickets_schedule(len, plan, LOW, HIGH, cycle="cosine")
    with pytest.raises(ValueError, match="the cycle needs 0 <= low <= high"):
        supjax.sawtooth_schedule(HIGH, LOW, 4)
