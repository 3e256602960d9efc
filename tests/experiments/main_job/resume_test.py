"""A run that was interrupted ends with the bits of one that was not."""

import contextlib
import re
import shutil
import signal

import numpy as np
import pytest

from experiments import train
from experiments.data.checks import CorruptImageError
from experiments.errors import CheckpointError, DivergedError, InterruptedRunError, RunError
from experiments.records.folder import RunFolder
from experiments.records.metrics import read_metrics
from tests.experiments.main_job.fault_drill import fingerprints
from tests.helpers.tiny_runs import (
    NORMAL_STEPS,
    SMALLER,
    TOPOLOGY_STEPS,
    TOTAL_STEPS,
    numbers,
    run_tiny,
    tiny_config,
)

STOPS = {
    "normal phase, amid a line of metrics": 3,
    "before a topology step": TOPOLOGY_STEPS[1],
    "after a topology step": TOPOLOGY_STEPS[1] + 1,
    "after the normal phase": NORMAL_STEPS,
    "after an exploration": NORMAL_STEPS + 1,
    "amid a cycle": NORMAL_STEPS + 5,
    "after a ticket": NORMAL_STEPS + 8,
    "after the last step": TOTAL_STEPS,
}


def steps_with_checkpoints(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_a_run_stopped_in_every_phase_ends_bit_for_bit_like_one_that_was_not(
    finished, stop_at, tmp_path, capsys
):
    workdir = tmp_path / "run"
    for step in STOPS.values():
        stop_at(step)
        with pytest.raises(InterruptedRunError, match=f"SIGTERM; saved at step {step},") as stopped:
            run_tiny(workdir)
        assert stopped.value.exit_code == 143
        assert steps_with_checkpoints(workdir)[-1] == step
        assert not (workdir / "summary.json").exists()
    run_tiny(workdir)
    assert f"continuing at step {TOTAL_STEPS} of {TOTAL_STEPS}" in capsys.readouterr().err
    assert fingerprints(workdir) == fingerprints(finished.workdir)


def test_a_finished_run_only_reports_again(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    for name in ("summary.json", "result.npz"):
        (workdir / name).unlink()
    monkeypatch.setattr(train, "dispatch", lambda *args: pytest.fail("it trains again"))
    run_tiny(workdir)
    assert fingerprints(workdir) == fingerprints(finished.workdir)


@pytest.fixture
def unfinished(finished, tmp_path):
    """A copy of the finished run that has lost its result: its last checkpoints are still there."""
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    (workdir / "result.npz").unlink()
    return workdir


@pytest.mark.parametrize("damage", ["cut short", "a flipped bit", "empty"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_used(
    damage, finished, unfinished, capsys
):
    *_, before, newest = steps_with_checkpoints(unfinished)
    file = unfinished / "checkpoints" / str(newest) / "state.npz"
    content = bytearray(file.read_bytes())
    if damage == "a flipped bit":
        content[len(content) // 2] ^= 1
    else:
        content = content[: len(content) // 2 if damage == "cut short" else 0]
    file.write_bytes(content)
    run_tiny(unfinished)
    told = capsys.readouterr().err
    assert f"skipped the checkpoint of step {newest}: " in told
    assert f"continuing at step {before} of {TOTAL_STEPS}" in told
    shutil.rmtree(unfinished / "checkpoints" / f"{newest}.damaged")
    assert fingerprints(unfinished) == fingerprints(finished.workdir)


def test_a_folder_of_another_config_is_refused_with_every_field_that_differs(finished):
    before = {path: path.read_bytes() for path in finished.workdir.iterdir() if path.is_file()}
    with pytest.raises(CheckpointError) as refused:
        run_tiny(finished.workdir, {"sparsity": 0.5, "sup_tickets.average": "caa"})
    assert refused.value.exit_code == 4
    assert str(refused.value).splitlines()[1:] == [
        "sparsity: 0.8 in the workdir, 0.5 given",
        'sup_tickets.average: "cia" in the workdir, "caa" given',
    ]
    assert before == {path: path.read_bytes() for path in before}


def test_how_a_run_is_executed_may_change_when_it_continues(finished, stop_at, tmp_path):
    stop_at(NORMAL_STEPS + 5)
    with pytest.raises(InterruptedRunError):
        run_tiny(tmp_path, {"runtime.checkpoint_every_steps": 3, "runtime.keep_checkpoints": 2})
    assert steps_with_checkpoints(tmp_path) == [19, 21]
    run_tiny(tmp_path, {"runtime.keep_checkpoints": 1})
    assert steps_with_checkpoints(tmp_path) == [TOTAL_STEPS]
    found, expected = fingerprints(tmp_path), fingerprints(finished.workdir)
    assert found["metrics.jsonl"] == expected["metrics.jsonl"]
    assert found["leaves/train/params/conv1/kernel"] == expected["leaves/train/params/conv1/kernel"]


@pytest.mark.parametrize(
    ("field", "kept", "newest"),
    [
        ("optimizer.learning_rate", [], "nothing saved"),
        ("sup_tickets.high", [16], "the checkpoint of step 16 is from before it"),
    ],
)
def test_an_infinite_loss_stops_the_run_and_keeps_the_last_good_checkpoint(
    field, kept, newest, tmp_path
):
    fields = {**SMALLER, "method": "static", field: 1e30}
    for _ in range(2):  # continuing comes to the same end
        with pytest.raises(DivergedError) as diverged:
            run_tiny(tmp_path, fields)
        assert diverged.value.exit_code == 3
        pattern = r"the (loss is|weights are) not finite at step (\d+), learning rate .*; "
        told = re.fullmatch(pattern + newest, str(diverged.value))
        assert int(told[2]) >= max(kept, default=0)
        assert steps_with_checkpoints(tmp_path) == kept
    assert all(np.isfinite(numbers(row)).all() for row in read_metrics(tmp_path))


def test_an_image_that_cannot_be_decoded_ends_the_run_with_what_to_do(tmp_path, monkeypatch):
    def corrupt(*args):
        raise CorruptImageError("imagenet2012 train example 7 is corrupt: cut short")

    monkeypatch.setattr(train, "dispatch", corrupt)
    with pytest.raises(RunError, match=r"example 7 is corrupt.*corrupt_images=skip") as stopped:
        run_tiny(tmp_path)
    assert "\n" not in str(stopped.value)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError) as refused:
        run_tiny(tmp_path / "file" / "run")
    assert "Not a directory" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_signals_are_python_s_own_again_after_a_run(finished):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with contextlib.suppress(RunError):
        train.train_and_evaluate(tiny_config({"method": "rgl"}), finished.workdir)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_folder_is_locked_before_the_data_move_and_given_back_by_a_failing_start(
    tmp_path, monkeypatch
):
    def unreachable(*arguments):
        raise RunError("no device left")

    monkeypatch.setattr(train, "make_steps", unreachable)
    with pytest.raises(RunError, match="no device left"):
        run_tiny(tmp_path)
    with RunFolder(tmp_path).locked(), pytest.raises(RunError, match="is in use"):
        run_tiny(tmp_path)
