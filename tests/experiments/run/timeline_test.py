"""The order of events of a run, as pure functions of the step."""

import pytest

import supjax
from experiments.run.build import build, open_dataset
from experiments.run.timeline import Timeline
from supjax import CyclePlan
from supjax.schedules import every
from tests.helpers.tiny_runs import (
    NORMAL_STEPS,
    STEPS_PER_EPOCH,
    TOPOLOGY_STEPS,
    TOTAL_STEPS,
    tiny_config,
)

STATIC = supjax.make_topology("static", density=0.5)
MOVED, EXPLORED = 0.25, 0.75


def line(plan, due=STATIC.due, steps_per_epoch=4, eval_every=4, log_every=4):
    method = STATIC._replace(due=due, drop_fraction=lambda step: MOVED)
    method = supjax.with_cycles(method, plan, EXPLORED)
    return Timeline(plan, method, steps_per_epoch, eval_every, log_every)


def action(timeline, step):
    return {None: "train", MOVED: "topology", EXPLORED: "explore"}[timeline.drop_fraction(step)]


PLAN = CyclePlan(normal_steps=8, cycle_steps=4, num_cycles=2)


def test_every_step_has_one_action():
    actions = [action(line(PLAN, every(3)), step) for step in range(PLAN.total_steps)]
    expected = ["train"] * 16
    expected[2] = expected[5] = "topology"
    expected[8] = expected[12] = "explore"  # no periodic update at 11 and 14
    assert actions == expected


def test_exploration_replaces_a_topology_step_that_is_due_at_the_same_time():
    always = line(PLAN, due=lambda step: True)
    assert action(always, 7) == "topology"
    assert [action(always, step) for step in (8, 12)] == ["explore", "explore"]
    assert all(action(always, step) == "train" for step in (9, 10, 11, 13, 14, 15))


def test_a_run_without_cycles_has_no_exploration_and_no_ticket():
    plain = line(CyclePlan(normal_steps=12, cycle_steps=4, num_cycles=0), every(5))
    assert {action(plain, step) for step in range(12)} == {"train", "topology"}
    assert not any(plain.ticket_after(done) for done in range(13))
    assert [done for done in range(13) if plain.normal_phase_ends(done)] == [12]
    assert {plain.phase(step) for step in range(12)} == {"normal"}


def test_tickets_follow_the_last_step_of_their_cycles():
    assert [line(PLAN).ticket_after(done) for done in range(17)] == [0] * 12 + [1, 0, 0, 0, 2]


def test_phases_by_name():
    phases = [line(PLAN).phase(step) for step in (0, 7, 8, 11, 12, 15)]
    assert phases == ["normal", "normal", "cycle 1", "cycle 1", "cycle 2", "cycle 2"]


@pytest.mark.parametrize("eval_every", [4, 8, 12])
def test_evaluations_fall_on_epochs_and_on_the_ends_of_both_phases(eval_every):
    due = {done for done in range(1, 17) if line(PLAN, eval_every=eval_every).evaluation_due(done)}
    assert due == set(range(eval_every, 17, eval_every)) | {8, 16}


@pytest.mark.parametrize(
    ("steps_per_epoch", "log_every", "expected"),
    [(8, 2, [2, 4, 6, 8, 10, 12, 14, 16]), (8, 3, [3, 6, 8, 11, 14, 16]), (8, 99, [8, 16])],
)
def test_lines_of_metrics_end_every_epoch(steps_per_epoch, log_every, expected):
    plan = CyclePlan(normal_steps=8, cycle_steps=8, num_cycles=1)
    timeline = line(plan, steps_per_epoch=steps_per_epoch, log_every=log_every)
    assert [done for done in range(1, 17) if timeline.log_due(done)] == expected


@pytest.mark.parametrize("at_most", [1, 2, 3, 100])
def test_a_stretch_never_runs_past_what_the_host_has_to_do(at_most):
    timeline = line(PLAN, every(3), log_every=3)
    for step in range(PLAN.total_steps):
        if action(timeline, step) != "train":
            continue
        stop = timeline.stretch_end(step, at_most)
        inside = range(step + 1, stop)
        assert 1 <= stop - step <= at_most
        assert all(action(timeline, other) == "train" for other in inside)
        assert not any(
            timeline.log_due(done) or timeline.ticket_after(done) or timeline.evaluation_due(done)
            for done in inside
        )
        longest = (
            stop - step == at_most or timeline.log_due(stop) or action(timeline, stop) != "train"
        )
        assert longest


@pytest.fixture(scope="module")
def dataset():
    return open_dataset(tiny_config())


def test_the_tiny_runs_of_these_tests_are_planned_as_they_say(dataset):
    parts = build(tiny_config(), dataset)
    assert parts.steps_per_epoch == STEPS_PER_EPOCH
    assert (parts.plan.normal_steps, parts.plan.total_steps) == (NORMAL_STEPS, TOTAL_STEPS)
    assert tuple(s for s in range(NORMAL_STEPS) if parts.topology.due(s)) == TOPOLOGY_STEPS


def test_the_learning_rate_decays_at_its_milestones_and_the_ticket_sees_low(dataset):
    fields = {"epochs": 6, "sup_tickets.cycle_fraction": 0.4, "optimizer.warmup_epochs": 1}
    fields |= {"optimizer.learning_rate": 0.1, "sup_tickets.low": 0.001, "sup_tickets.high": 0.005}
    parts = build(tiny_config(fields), dataset)
    assert parts.plan == CyclePlan(normal_steps=32, cycle_steps=8, num_cycles=2)
    rates = [float(parts.learning_rate(step)) for step in range(48)]
    assert rates[0] == pytest.approx(0.1 / 8)
    assert rates[7:16] == pytest.approx([0.1] * 9)
    assert rates[16:24] == pytest.approx([0.01] * 8)  # half of the normal phase
    assert rates[24:32] == pytest.approx([0.001] * 8)  # three quarters
    for start in parts.plan.exploration_steps:
        cycle = rates[start : start + 8]
        assert cycle == pytest.approx([0.002, 0.003, 0.004, 0.005, 0.004, 0.003, 0.002, 0.001])
    assert [rates[step] for step in parts.plan.ticket_steps] == pytest.approx([0.001, 0.001])


def test_milestones_from_one_on_are_epochs(dataset):
    parts = build(tiny_config({"optimizer.milestones": (1, 2)}), dataset)
    peak = float(parts.learning_rate(0))
    rates = [float(parts.learning_rate(step)) / peak for step in (7, 8, 15)]
    assert rates == pytest.approx([1, 0.1, 0.1])


def test_without_sup_tickets_the_whole_budget_is_the_normal_phase(dataset):
    parts = build(tiny_config({"sup_tickets.enabled": False}), dataset)
    assert parts.plan.total_steps == parts.plan.normal_steps == TOTAL_STEPS
    assert float(parts.learning_rate(31)) == pytest.approx(float(parts.learning_rate(0)) / 100)


@pytest.mark.parametrize(
    ("steps", "share", "said"),
    [
        (76, 0.5, ["at most 0.25, or 150 steps"]),
        (150, 0.5, []),
        (149, 0.5, ["or 150 steps"]),
        (76, 0.1, []),
        (1, 0, []),
    ],
)
def test_cycles_too_short_for_what_they_explore_are_warned_of(steps, share, said):
    plan = supjax.CyclePlan(normal_steps=4, cycle_steps=steps, num_cycles=2)
    method = supjax.with_cycles(supjax.make_topology("set", density=0.5), plan, share)
    lines = Timeline(plan, method, steps_per_epoch=1, eval_every=1, log_every=1).warnings()
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))
