"""The analysis of a finished run agrees with what the run itself has written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import reestimation
from experiments.analyse import analyse, render
from experiments.analysis.finished_run import FinishedRun
from experiments.configs import digits
from experiments.errors import RunError
from experiments.records.summary import read_summary, write_summary
from experiments.train import train_and_evaluate

POINTS, GRID = 2, 2


def train(workdir, cycles):
    config = digits.get_config("runlocal,width=0.25")
    config.epochs = cycles + 1
    config.topology.ramp_epochs = (0, 1)
    config.sup_tickets.cycle_fraction = cycles / (cycles + 1)
    config.runtime.devices = 1
    config.runtime.plots = config.runtime.tensorboard = False
    train_and_evaluate(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return train(tmp_path_factory.mktemp("run"), 3)


@pytest.fixture(scope="module")
def found(workdir):
    return analyse(FinishedRun(workdir, batches=2), points=POINTS, grid=GRID)


def network(workdir, kind):
    return [n for n in read_summary(workdir)["networks"] if n["kind"] == kind][-1]


def test_it_writes_every_picture_and_what_it_has_found(workdir, found):
    names = {path.name for path in (workdir / "analysis").iterdir()}
    pictures = set(found) - {"superposition_and_ensemble"}
    assert names == {"analysis.json", *(f"{name}.png" for name in pictures)}
    assert len(pictures) == 6
    assert json.loads((workdir / "analysis" / "analysis.json").read_text()) == found


def test_scores_are_those_of_the_run(workdir, found):
    for name, kind in {
        "ticket 3": "ticket",
        "superposed": "superposed",
        "ensemble of 3 tickets": "ensemble",
    }.items():
        scores, expected = found["reliability"][name], network(workdir, kind)["test"]
        assert scores["accuracy"] == pytest.approx(expected["accuracy"])
        assert scores["nll"] == pytest.approx(expected["loss"], rel=1e-4)
        assert sum(scores["bins"]["counts"]) == 355


def test_superposition_and_ensemble_are_compared(found):
    both, networks = found["superposition_and_ensemble"], found["reliability"]
    difference = networks["superposed"]["accuracy"] - networks["ensemble of 3 tickets"]["accuracy"]
    assert both["accuracy_difference"] == pytest.approx(difference)
    alone = both["only_superposed_right"] - both["only_ensemble_right"]
    assert alone / both["examples"] == pytest.approx(difference)
    text = render(found)
    assert "ensemble of 3 tickets" in text
    assert f"{100 * difference:+.2f} points" in text


def test_distances_of_a_network_to_itself_are_none(found):
    tables = found["ticket_distance"]
    assert tables["networks"] == ["ticket 1", "ticket 2", "ticket 3", "superposed"]
    for name, same in {"mask_iou": 1, "disagreement": 0, "kl_divergence": 0}.items():
        table = np.array(tables[name])
        assert table.shape == (4, 4)
        np.testing.assert_allclose(np.diag(table), same, atol=1e-6)
        assert (table[~np.eye(4, dtype=bool)] != same).any()


def test_both_paths_pass_the_same_tickets(found):
    paths = found["interpolation"]
    straight, through = paths["straight"], paths["through_superposed"]
    assert straight["position"] == through["position"] == [0, 0.5, 1, 1.5, 2]
    assert straight["loss"][::POINTS] == pytest.approx(through["loss"][::POINTS])
    assert through["loss"][1] == through["loss"][3]  # the superposed network, from either side
    assert paths["split"] == "validation"


def test_the_plane_reaches_beyond_its_networks(found):
    plane = found["loss_plane"]
    points = np.array(list(plane["networks"].values()))
    assert list(plane["networks"]) == ["ticket 1", "ticket 2", "ticket 3", "superposed"]
    for i, axis in enumerate("xy"):
        assert plane[axis][0] < points[:, i].min() < points[:, i].max() < plane[axis][-1]
    assert np.shape(plane["loss"]) == (GRID, GRID)
    assert plane["superposed_distance_from_plane"] > 0


def test_operations_and_exploration_are_those_of_the_run(workdir, found):
    summary, flops = read_summary(workdir), found["flops"]
    assert flops["dense_forward"] == summary["flops"]["dense_forward"]
    relative = flops["sparse_forward"] / flops["dense_forward"]
    assert relative == pytest.approx(summary["flops"]["inference_relative"])
    rates = found["exploration"]["rate"]
    assert rates[-1] == pytest.approx(summary["exploration_rate"])
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_batch_norm_statistics_are_estimated_anew(workdir):
    run = FinishedRun(workdir, batches=2)
    again = run.reestimated(run.superposed)
    old, new = (t.batch_stats["bn1"]["mean"] for t in (run.superposed, again))
    assert not np.allclose(old, new)
    bare = run.superposed._replace(batch_stats={})
    assert run.reestimated(bare) is bare


def test_a_single_ticket_is_compared_with_the_end_of_the_normal_phase(tmp_path):
    workdir = train(tmp_path, 1)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("exploration_rate", None)  # as older versions wrote them
    (workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = analyse(FinishedRun(workdir, batches=1), points=POINTS, grid=GRID)
    assert found["interpolation"]["networks"] == ["end of normal phase", "ticket 1"]
    assert not {"loss_plane", "exploration"} & set(found)
    assert "ensemble of 1 ticket " in render(found)


@pytest.fixture
def copied(workdir, tmp_path):
    return Path(shutil.copytree(workdir, tmp_path / "copy"))


def error_line(workdir):
    with pytest.raises(RunError) as caught:
        FinishedRun(workdir, batches=1)
    line = str(caught.value)
    assert "\n" not in line
    assert str(workdir) in line
    return line


def test_a_run_that_is_not_there_or_not_finished_costs_one_line(copied, tmp_path):
    assert "no run in this folder" in error_line(tmp_path / "nowhere")
    (copied / "summary.json").write_text("{")
    assert "damaged" in error_line(copied)
    (copied / "summary.json").unlink()
    assert "not finished" in error_line(copied)


def test_a_run_without_tickets_costs_one_line(copied):
    summary = read_summary(copied)
    summary["plan"]["num_cycles"] = 0
    write_summary(copied, summary)
    assert "no tickets" in error_line(copied)


def test_a_damaged_ticket_costs_one_line(copied):
    (copied / "tickets" / "ticket_2.npz").write_text("damaged")
    assert "ticket_2.npz" in error_line(copied)
    (copied / "tickets" / "ticket_2.npz").unlink()
    assert "ticket_2.npz" in error_line(copied)


def test_the_command_tells_an_error_in_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.analyse", f"--workdir={tmp_path}"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}: no run in this folder")


def test_the_benchmark_of_reestimation_prints_and_writes(workdir, tmp_path, capsys):
    # Here for the run's sake: it is the one with batch norm.
    output = tmp_path / "reestimation.json"
    reestimation.main(["--workdir", str(workdir), "--batches", "1,2", "--output", str(output)])
    [rows] = json.loads(output.read_text())["runs"].values()
    assert [row["batches"] for row in rows] == ["average", "1", "2"]
    assert rows[1]["loss"] != rows[2]["loss"]
    assert f"{rows[2]['loss']:.4f}" in capsys.readouterr().out
