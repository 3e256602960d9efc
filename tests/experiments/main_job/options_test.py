"""What a config can choose about a run, each choice run through both phases."""

import jax
import numpy as np
import pytest

import supjax
from experiments import train
from supjax.ticket_io import load_ticket
from tests.helpers.tiny_runs import SMALLER, TOTAL_STEPS, run_tiny

PLAIN = {**SMALLER, "method": "set"}


def kept(workdir, name):
    return load_ticket(workdir / "tickets" / f"{name}.npz")


def assert_same_ticket(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), first, second)


def test_without_sup_tickets_the_method_gets_the_same_budget(tmp_path):
    fields = {"method": "static", "sup_tickets.enabled": False}
    summary = run_tiny(tmp_path, PLAIN | fields)
    assert summary["plan"]["normal_steps"] == TOTAL_STEPS
    assert summary["plan"]["num_cycles"] == 0
    [network] = summary["networks"]
    assert summary["result"] == network["name"] == "final network"
    assert network["step"] == TOTAL_STEPS
    assert summary["exploration_rate"] == pytest.approx(network["density"], abs=1e-6)
    assert (tmp_path / "result.npz").read_bytes() == (
        tmp_path / "tickets" / "pretrained.npz"
    ).read_bytes()


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"include_pretrained": False}, {}),
        ({"average": "caa"}, {"average": "caa"}),
        ({"average": "cima", "beta": 0.25}, {"average": "cima", "beta": 0.25}),
        ({"scope": "layer"}, {"scope": "layer"}),
    ],
    ids=lambda given: ",".join(map(str, given.values())) or "default",
)
def test_the_result_is_the_superposition_of_the_kept_tickets(fields, options, tmp_path):
    sup = {f"sup_tickets.{name}": value for name, value in fields.items()}
    summary = run_tiny(tmp_path, PLAIN | sup)
    names = ["pretrained", "ticket_1", "ticket_2"]
    if not fields.get("include_pretrained", True):
        names.remove("pretrained")
    expected = supjax.superpose([kept(tmp_path, name) for name in names], density=0.2, **options)
    assert_same_ticket(load_ticket(tmp_path / "result.npz"), expected)
    assert summary["result"] == ("superposed 0-2" if "pretrained" in names else "superposed 1-2")


def test_recomputed_batch_statistics_belong_to_the_superposed_weights(finished, tmp_path):
    run_tiny(tmp_path, {"sup_tickets.batch_stats": "average"})
    for number in (1, 2):
        averaged = kept(tmp_path, f"superposed_{number}")
        recomputed = kept(finished.workdir, f"superposed_{number}")
        assert_same_ticket(averaged[:2], recomputed[:2])
        differences = jax.tree.map(
            lambda a, b: np.abs(a - b).max(), averaged.batch_stats, recomputed.batch_stats
        )
        assert min(jax.tree.leaves(differences)) > 1e-4


def test_bfloat16_trains_float32_weights(tmp_path):
    summary = run_tiny(tmp_path, {**PLAIN, "method": "static", "model.dtype": "bfloat16"})
    result = load_ticket(tmp_path / "result.npz")
    assert {leaf.dtype for leaf in jax.tree.leaves(result.params)} == {np.dtype("float32")}
    assert all(np.isfinite(network["test"]["loss"]) for network in summary["networks"])


def test_without_a_validation_split_the_test_split_alone_is_scored(tmp_path):
    fields = {"validation_size": 0, "sup_tickets.enabled": False, "method": "static"}
    summary = run_tiny(tmp_path, PLAIN | fields)
    [network] = summary["networks"]
    assert "validation" not in network
    assert 0 <= network["test"]["accuracy"] <= 1


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ({"method": "rigl"}, True),
        ({"method": "rigl", "sup_tickets.exploration": 0.01}, False),
        ({"method": "static"}, True),
        ({"method": "static", "sup_tickets.explore_fixed_masks": False}, False),
        ({"method": "dense"}, False),
    ],
)
def test_a_run_that_explores_in_short_cycles_is_warned_before_it_trains(
    fields, warned, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(train, "dispatch", lambda *_: pytest.fail("enough"))
    with pytest.raises(pytest.fail.Exception):
        run_tiny(tmp_path, {**PLAIN, "sup_tickets.exploration": 0.5, **fields})
    assert ("warning: cycles of 8 steps are short" in "".join(capfd.readouterr())) == warned
