"""Other scores of prune-back and learned coefficients, on a finished run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from benchmarks import prune_back
from experiments.analysis.finished_run import FinishedRun
from supjax.types import Ticket
from tests.helpers.tiny_runs import SMALLER, run_tiny


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tickets") / "run"
    run_tiny(folder, SMALLER)
    return folder


@pytest.fixture(scope="module")
def run(workdir):
    return FinishedRun(workdir, batches=2)


def ticket(*weights):
    row = jnp.array([weights])
    return Ticket({"w": row}, {"w": row != 0})


MEMBERS = [ticket(4.0, 2.0, 0.0, 0.0), ticket(2.0, 0.0, 3.0, 0.0), ticket(0.0, 3.0, 0.0, 3.0)]


def test_by_magnitude_it_is_the_rule_of_the_library(run):
    for members in (MEMBERS, run.members):
        ours = prune_back.folded(members, prune_back.by_magnitude)
        theirs = supjax.superpose(members)
        for found, expected in zip(
            jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_once_keeps_what_the_mean_of_all_has_most_of():
    # Means 2, 5/3, 1, 1: the first fold (3, 1, 1.5, 0) would have dropped the second weight.
    found = prune_back.folded(MEMBERS, prune_back.by_magnitude, once=True)
    np.testing.assert_allclose(found.params["w"], [[2.0, 5 / 3, 0.0, 0.0]], rtol=1e-6)


def test_by_deviation_what_members_agree_on_stays():
    members = [ticket(9.0, 1.0, 0.0), ticket(0.0, 1.0, 5.0)]
    found = prune_back.folded(members, prune_back.by_deviation)
    assert found.masks["w"][0, 1]
    scores = prune_back.by_deviation(Ticket({"w": jnp.array([[4.5, 1.0, 2.5]])}, None), members)
    # Means 4.5, 1, 2.5; deviations 4.5, 0, 2.5; roots of mean squares 9 / sqrt 2, 1, 5 / sqrt 2.
    expected = [4.5 / (4.5 + 9e-3 / 2**0.5), 1000.0, 2.5 / (2.5 + 5e-3 / 2**0.5)]
    np.testing.assert_allclose(scores["w"][0], expected, rtol=1e-5)


def test_every_way_keeps_the_density_and_knows_all_layers(run):
    scores = prune_back.data_scores(run)
    active = supjax.count_active(run.tickets[-1].masks)
    for score in scores.values():
        made = prune_back.folded(run.members, score)
        assert supjax.count_active(made.masks) == active
    mean = run.tickets[-1]._replace(masks=None)
    by_input = scores["input"](mean, run.members)
    changed = jax.tree.map(lambda s, w: bool(jnp.any(s != jnp.abs(w))), by_input, mean.params)
    for layer in ("fc1", "fc2", "fc3"):
        assert changed[layer]["kernel"]
    assert supjax.count_active(prune_back.learned(run).masks) == active


def test_prune_back_prints_and_writes(workdir, tmp_path, capsys):
    output = tmp_path / "prune_back.json"
    prune_back.main([str(workdir), "--batches", "2", "--output", str(output)])
    [rows] = json.loads(output.read_text())["settings"].values()
    assert set(rows["0"]) == {"cia", "deviation", "fisher", "input", "once", "learned"}
    assert all(loss > 0 and 0 <= accuracy <= 100 for loss, accuracy in rows["0"].values())
    assert "digits, rigl, 0.8" in capsys.readouterr().out
