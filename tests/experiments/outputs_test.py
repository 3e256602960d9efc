"""Every command with an output that shows nothing: its work is done, and its status 0."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.forked import FULL, OUTPUTS
from tests.helpers.main_command import CACHE, ENVIRONMENT, ROOT
from tests.helpers.tiny_runs import SMALLER, tiny_flags
from tests.helpers.tiny_sets import make_arrays

pytestmark = pytest.mark.skipif(not os.path.exists(FULL), reason="there is no /dev/full")

FLAGS = tiny_flags({**SMALLER, "epochs": 3, "runtime.compilation_cache": CACHE})

ODD_NAME = "run \u00b1\u6f22"
"""Folder of the run, which an ASCII terminal cannot show."""

COMMANDS = {
    "main": ("head", "ascii"),
    "sweep": ("head", "both closed"),
    "report": ("head", "full", "both closed", "ascii"),
    "evaluate": OUTPUTS,
    "analyse": ("both full", "ascii"),
    "prepare_data": ("both full", "ascii"),
}
"""Outputs that a command is tried with; two runs are trained before, with two more."""

COMPLAINT = "output is not shown: No space left on device"
CASES = [(name, output) for name, outputs in COMMANDS.items() for output in outputs]


def run_all(lines):
    """Exit status and errors of command lines."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.forked"],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run and two seeds, and how their commands have ended."""
    folder = tmp_path_factory.mktemp("outputs")
    lines = [
        ["experiments.main", [f"--workdir={folder / ODD_NAME}", *FLAGS], "both full"],
        ["experiments.seeds", ["--seeds=1,2", f"--workdir={folder}/seed={{seed}}", *FLAGS], "head"],
    ]
    return folder, run_all(lines)


def test_runs_train_to_their_end_without_an_output(trained):
    folder, [main, seeds] = trained
    assert main == [0, ""]
    assert seeds[0] == 0
    assert "Traceback" not in seeds[1]
    for name in (ODD_NAME, "seed=1", "seed=2"):
        left = {path.name for path in (folder / name).iterdir()}
        assert {"result.npz", "summary.json", "metrics.jsonl", "checkpoints", "tickets"} <= left


def command_line(name, folder, own):
    """The arguments of a command, and the folder in which its work must be in the end."""
    if name == "main":  # which reports again
        shutil.copytree(folder / ODD_NAME, own / ODD_NAME)
        workdir = own / ODD_NAME
        return [f"--workdir={workdir}", *FLAGS, "--config.runtime.plots=True"], workdir / "plots"
    if name == "sweep":  # which finds all runs finished
        config = ROOT / "experiments" / "configs" / "digits.py"
        return [f"--config={config}", "--grid=seed=1,2", f"--folder={folder}"], folder / "seed=1"
    if name == "report":
        return [str(folder), f"--out={own / ODD_NAME}"], own / ODD_NAME
    if name == "evaluate":
        return [f"--ticket={folder / ODD_NAME / 'result.npz'}"], folder
    if name == "analyse":
        shutil.copytree(folder / ODD_NAME, own / ODD_NAME)
        words = ["--points=2", "--grid=2", "--batches=1"]
        return [f"--workdir={own / ODD_NAME}", *words], own / ODD_NAME / "analysis"
    (train, train_labels), (test, test_labels) = make_arrays()
    content = {"train_images": train, "train_labels": train_labels}
    np.savez(own / "set.npz", **content, test_images=test, test_labels=test_labels)
    words = ["--dataset=tiny", f"--data_dir={own}", f"--from={own / 'set.npz'}"]
    return words, own / "tiny" / "1.0.0"


WORK = {
    "main": {"accuracy.png", "learning_rate.png", "layer_density.png", "mask_overlap.png"},
    "sweep": {"summary.json"},
    "report": {"report.md", "report.csv", "report.json", "accuracy.png"},
    "evaluate": set(),
    "analyse": {"analysis.json", "interpolation.png", "flops.png", "reliability.png"},
    "prepare_data": {"dataset_info.json", "features.json", "description.sha256"},
}
"""Files that a command must have written."""


@pytest.fixture(scope="module")
def answers(trained, tmp_path_factory):
    """What each case has answered, and the names in the folder of its work."""
    lines, folders = [], []
    for name, output in CASES:
        words, place = command_line(name, trained[0], tmp_path_factory.mktemp("own"))
        lines.append([f"experiments.{name}", words, output])
        folders.append(place)
    return {
        case: (status, errors, {path.name for path in place.glob("*")})
        for case, (status, errors), place in zip(CASES, run_all(lines), folders, strict=True)
    }


@pytest.mark.parametrize(("name", "output"), CASES)
def test_work_is_done_and_the_status_is_0_whatever_becomes_of_the_output(answers, name, output):
    status, errors, left = answers[name, output]
    assert status == 0, errors
    assert left >= WORK[name]
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    complaints = [line for line in errors.splitlines() if "not shown" in line]
    assert "\n".join([*complaints, ""]).strip("\n") == (
        COMPLAINT.strip() if output == "full" else ""
    )
