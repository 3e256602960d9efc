"""All rules on the tickets of finished runs, and the columns that a report makes of them."""

import json
import subprocess
import sys

import numpy as np
import pytest

import supjax
from experiments.analysis.finished_run import FinishedRun
from experiments.analysis.superpositions import LAST, REPAIRED, held_out_losses
from experiments.errors import RunError
from experiments.records.folder import RunFolder
from experiments.records.summary import read_summary
from experiments.report import find_runs, rule_lines, write_report
from experiments.study.statistics import collect
from experiments.superpose import superpose_run
from supjax.superposition import SUPERPOSITIONS
from supjax.superposition.scored import RULES
from tests.helpers.tiny_runs import SMALLER, run_tiny


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "run"
    run_tiny(folder, SMALLER)
    return folder


@pytest.fixture(scope="module")
def found(workdir):
    return superpose_run(RunFolder(workdir), batches=2)


def test_every_rule_is_a_column(found):
    assert set(found["rules"]) == {LAST, *SUPERPOSITIONS, *RULES, REPAIRED}
    assert found["split"] == "validation"


def test_the_runs_own_rule_and_its_last_ticket_score_as_the_run_says(workdir, found):
    summary = read_summary(workdir)
    for name, kind in (
        (LAST, "ticket"),
        (summary["config"]["sup_tickets"]["average"], "superposed"),
    ):
        said = [n for n in summary["networks"] if n["kind"] == kind][-1]
        row = found["rules"][name]
        assert row["test_accuracy"] == pytest.approx(said["test"]["accuracy"])
        assert row["held_out_loss"] == pytest.approx(said["validation"]["loss"], rel=1e-4)
        assert row["held_out_accuracy"] == pytest.approx(said["validation"]["accuracy"])


def test_rules_that_choose_are_not_worse_than_what_they_choose_from(found):
    loss = {name: row["held_out_loss"] for name, row in found["rules"].items()}
    assert loss["greedy"] <= loss[LAST] + 1e-6
    assert loss["pools"] <= loss[LAST] + 1e-6
    assert loss["guard"] <= loss[LAST] + 1e-6


def test_a_repaired_superposition_keeps_its_density(workdir):
    run = FinishedRun(workdir, batches=2)
    result = supjax.superpose(run.members)
    assert supjax.density(run.repaired(result).masks) == supjax.density(result.masks)


def test_the_score_is_one_loss_an_example(workdir):
    run = FinishedRun(workdir, batches=1)
    found = held_out_losses(run)(run.superposed)
    assert found.shape == (200,)
    said = [n for n in run.summary["networks"] if n["kind"] == "superposed"][-1]
    assert np.mean(found) == pytest.approx(said["validation"]["loss"], rel=1e-4)


def test_the_report_makes_columns_of_it(workdir, found, tmp_path):
    text = write_report([workdir], tmp_path)
    assert "## Rules on the same tickets" in text
    [setting] = collect(find_runs([workdir])[0])
    assert setting.rules["cia"] == {0: 100 * found["rules"]["cia"]["test_accuracy"]}
    assert rule_lines([setting._replace(rules={})]) == []


def test_differences_are_paired_by_seed(workdir, found):
    [setting] = collect(find_runs([workdir])[0])
    made = setting._replace(
        base={0: 90.0, 1: 91.0, 2: 92.0},
        last={0: 91.0, 1: 91.0, 2: 91.0},
        rules={"cia": {0: 91.0, 1: 91.5, 2: 93.5, 3: 0.0}, "guard": {0: 91.0}},
    )
    lines = [line for line in rule_lines([made]) if line.startswith("| digits")]
    assert [line.split(" | ")[1:] for line in lines] == [
        ["91.00 ± 1.00 (3)", "69.00 ± 46.01 (4)", "91.00 ± - (1) |"],
        ["+1.00 ± 1.24", "- |"],
        ["+1.00 ± 3.29", "- |"],
    ]


def test_a_damaged_file_is_named_in_one_line(workdir, found):
    path = RunFolder(workdir).superpositions_file
    before = path.read_text(encoding="utf-8")
    try:
        for text in ("{", "[]", '{"rules": {"cia": {}}}', '{"rules": 3}'):
            path.write_text(text, encoding="utf-8")
            with pytest.raises(RunError, match=r"superpositions\.json is damaged .*: remove it"):
                find_runs([workdir])
    finally:
        path.write_text(before, encoding="utf-8")


def test_the_command_leaves_done_runs_alone_and_names_what_it_lacks(workdir, found, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "experiments.superpose", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    before = RunFolder(workdir).superpositions_file.stat().st_mtime_ns
    done = run(str(workdir))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{workdir}: done before" in done.stdout
    assert RunFolder(workdir).superpositions_file.stat().st_mtime_ns == before
    empty = run(str(tmp_path))
    assert empty.returncode == 1
    assert "no finished run with tickets below" in empty.stderr
    assert json.loads(RunFolder(workdir).superpositions_file.read_text())["rules"]
