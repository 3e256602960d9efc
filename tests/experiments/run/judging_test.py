"""What held-out examples say of a run's networks: the diagnosis, and the choice of the result."""

import jax
import numpy as np
import pytest

from experiments.configs.rules import check_config_values
from experiments.errors import ConfigError
from experiments.records.folder import SELECTED, RunFolder
from experiments.records.summary import render_table
from experiments.run.plots.diagnosis import diagnosis_figure
from supjax import load_ticket
from tests.helpers.tiny_runs import SMALLER, run_tiny, same_masks, tiny_config

CHOOSING = {**SMALLER, "sup_tickets.select": "guard", "sup_tickets.force_select": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run whose result the guard chose: its folder and its summary."""
    workdir = tmp_path_factory.mktemp("judging") / "run"
    return RunFolder(workdir), run_tiny(workdir, CHOOSING)


def test_the_diagnosis_has_a_number_for_every_pair_of_neighbours(run):
    found = run[1]["diagnosis"]
    assert (found["split"], found["images"]) == ("validation", 200)
    assert len(found["losses"]) == 3
    for name in ("changes", "change_errors", "distances", "disagreements", "barriers"):
        assert len(found[name]) == 2
    assert found["losses"] == pytest.approx(
        [
            n["validation"]["loss"]
            for n in run[1]["networks"]
            if n["kind"] in ("pretrained", "ticket")
        ],
        rel=1e-4,
    )


def test_the_choice_is_scored_kept_and_the_result(run):
    folder, summary = run
    choice, [chosen] = summary["choice"], [n for n in summary["networks"] if n["kind"] == SELECTED]
    assert summary["result"] == chosen["name"] == "chosen by guard"
    assert choice["images"] == 200
    assert choice["loss"] == pytest.approx(chosen["validation"]["loss"], rel=1e-4)
    by_name = {candidate["name"]: candidate["loss"] for candidate in choice["candidates"]}
    assert list(by_name) == ["ticket 0", "ticket 1", "ticket 2", "superposition of all tickets"]
    assert choice["loss"] <= by_name["ticket 2"]
    kept, result = folder.load_ticket(SELECTED), load_ticket(folder.result_file)
    assert same_masks(kept, result)
    assert jax.tree.all(jax.tree.map(np.array_equal, kept.params, result.params))


def test_the_table_says_what_was_chosen_and_what_to_change(run):
    text = " ".join(render_table(run[1], terminal=False).split())
    assert run[1]["diagnosis"]["advice"] in text
    assert "by guard: loss" in text
    assert "on 200 validation images" in text


def test_the_picture_shows_every_pair(run):
    figure = diagnosis_figure(run[1]["diagnosis"])
    heights = [[bar.get_height() for bar in panel.patches[:2]] for panel in figure.axes]
    found = run[1]["diagnosis"]
    assert heights[0] == pytest.approx(found["distances"])
    assert heights[2] == pytest.approx(found["barriers"])


def test_without_held_out_examples_there_is_no_diagnosis(tmp_path):
    assert "diagnosis" not in run_tiny(tmp_path, {**SMALLER, "validation_size": 0})


def test_a_choice_on_few_examples_is_refused_by_name():
    config = tiny_config({"sup_tickets.select": "greedy"})
    with pytest.raises(ConfigError, match=r"validation_size must be at least 500 .*, got 200"):
        check_config_values(config)
