"""Averages of the weights along the way: by hand, and along a real run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train
from experiments.records.folder import PRETRAINED, RunFolder
from experiments.run.averages import averaged, first_averages, remasked, share_schedules
from experiments.run.host import Clock
from supjax.schedules import CyclePlan
from tests.helpers.tiny_runs import NORMAL_STEPS, SMALLER, TOTAL_STEPS, run_tiny

PLAN = CyclePlan(normal_steps=2, cycle_steps=3, num_cycles=2)


def walk(shares, weights):
    """The averages after each of the steps that left these weights."""
    averages = first_averages(shares, {"w": jnp.array([weights[0]])})
    found = []
    for step, weight in enumerate(weights[1:]):
        averages = averaged(shares, averages, {"w": jnp.array([weight])}, step)
        found.append({name: float(tree["w"][0]) for name, tree in averages.items()})
    return found


def test_a_moving_average_by_hand():
    found = walk(share_schedules(0.5, False, PLAN), [8.0, 4.0, 0.0, 2.0])
    assert found == [{"ema": 6.0}, {"ema": 3.0}, {"ema": 2.5}]


def test_the_tail_is_the_plain_mean_of_the_weights_after_each_step_of_the_last_cycle():
    weights = [1.0, 7.0, -3.0, 5.0, 2.0, 9.0, 6.0, 1.0, 2.0]  # at the start, and after 8 steps
    found = [row["tail"] for row in walk(share_schedules(0.0, True, PLAN), weights)]
    assert found == pytest.approx([*weights[1:6], 6.0, (6 + 1) / 2, (6 + 1 + 2) / 3])


def test_what_is_off_or_has_no_cycle_costs_no_state():
    assert share_schedules(0.0, False, PLAN) == {}
    assert share_schedules(0.0, True, CyclePlan(4, 1, 0)) == {}
    assert list(share_schedules(0.9, True, CyclePlan(4, 1, 0))) == ["ema"]


def test_an_average_on_new_masks_keeps_what_stays_and_starts_what_comes_at_its_value():
    rng = np.random.default_rng(0)
    before, now = ({"a": rng.random((5, 6)) < 0.4, "b": None} for _ in range(2))
    average = {"a": rng.normal(size=(5, 6)) * before["a"], "b": rng.normal(size=6)}
    params = {"a": rng.normal(size=(5, 6)) * now["a"], "b": rng.normal(size=6)}
    found = remasked({"ema": average}, before, params, now)["ema"]
    assert not np.any(np.asarray(found["a"])[~now["a"]])
    stays, comes = before["a"] & now["a"], ~before["a"] & now["a"]
    assert stays.any()
    assert comes.any()
    np.testing.assert_allclose(np.asarray(found["a"])[stays], average["a"][stays], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(found["a"])[comes], params["a"][comes], rtol=1e-6)
    np.testing.assert_array_equal(found["b"], average["b"])


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run with both averages, and its weights and masks after every step."""
    workdir = tmp_path_factory.mktemp("averages") / "run"
    seen = []
    dispatch = train.dispatch

    def watching(run, state, step, stop):
        seen.append(jax.device_get(state.train.ticket))
        result = dispatch(run, state, step, stop)
        if stop == TOTAL_STEPS:
            seen.append(jax.device_get(result[0].train.ticket))
        return result

    fields = {**SMALLER, "method": "granet", "baselines.ema": 0.8, "baselines.tail": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "dispatch", watching)
        patch.setattr(Clock, "steps_within", lambda clock, seconds: 1)
        summary = run_tiny(workdir, fields)
    return RunFolder(workdir), summary, seen, fields


def test_the_averages_of_a_run_are_those_of_its_weights_on_the_masks_of_each_step(watched):
    folder, _, seen, _ = watched
    assert len(seen) == TOTAL_STEPS + 1
    average = jax.tree.map(np.float64, seen[0].params)
    for ticket in seen[1:]:
        average = jax.tree.map(
            lambda e, w, m: (0.8 * e + 0.2 * w) * (1 if m is None else m),
            average,
            ticket.params,
            ticket.masks,
        )
    tail = jax.tree.map(lambda *w: np.mean(w, 0), *(t.params for t in seen[-8:]))
    for name, expected in {"ema": average, "tail": tail}.items():
        found = folder.load_ticket(name)
        jax.tree.map(np.testing.assert_array_equal, found.masks, seen[-1].masks)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            found.params,
            expected,
        )


def test_the_averages_stand_beside_the_other_networks(watched):
    _, summary, _, _ = watched
    kinds = [network["kind"] for network in summary["networks"]]
    assert kinds[-3:] == ["ema", "tail", "ensemble"]
    density = summary["networks"][0]["density"]
    for network in summary["networks"][-3:-1]:
        assert (network["step"], network["density"]) == (TOTAL_STEPS, density)
        assert {"validation", "test"} <= network.keys()


def test_many_steps_in_a_dispatch_and_several_devices_give_the_same_averages(watched, tmp_path):
    folder, _, _, fields = watched
    for name, other in {"fused": {"runtime.loop": "fused"}, "two": {"runtime.devices": 2}}.items():
        run_tiny(tmp_path / name, fields | other)
        for kind in ("ema", "tail"):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
                RunFolder(tmp_path / name).load_ticket(kind).params,
                folder.load_ticket(kind).params,
            )


def test_training_itself_is_not_touched_and_the_base_method_has_its_average_too(tmp_path):
    fields = {"sup_tickets.enabled": False, "epochs": 2}  # with batch norm
    run_tiny(tmp_path / "plain", fields)
    both = {"baselines.ema": 0.5, "baselines.tail": True}
    summary = run_tiny(tmp_path / "ema", fields | both)
    assert [network["kind"] for network in summary["networks"]] == ["final", "ema"]
    assert summary["networks"][1]["step"] == NORMAL_STEPS
    folder, plain = RunFolder(tmp_path / "ema"), RunFolder(tmp_path / "plain")
    final, average = folder.load_ticket(PRETRAINED), folder.load_ticket("ema")
    jax.tree.map(np.testing.assert_array_equal, final, plain.load_ticket(PRETRAINED))
    same = jax.tree.map(np.array_equal, final.batch_stats, average.batch_stats)
    assert not any(jax.tree.leaves(same))  # estimated anew for the averaged weights
