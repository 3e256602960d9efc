"""Sweeps, with small programs in place of the cells."""

import json
import re
import sys

import pytest

from experiments import sweep
from experiments.configs import digits
from experiments.errors import ConfigError
from experiments.sweep import SEED, command, group_seeds, parse_grid, run_sweep

DONE = """
import json, os, pathlib, sys
folder, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
def finish(name):
    network = {"name": "net", "test": {"accuracy": 0.5}}
    content = {"result": "net", "networks": [network]}
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "summary.json").write_text(json.dumps(content))
def note(text):
    with open(folder / "notes.txt", "a") as file:
        print(text, file=file)
note("+" + " ".join(names))
"""
"""Start of every stub: what it was called with, and how it finishes a cell."""

FINISH = "for name in names: finish(name)"


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """Put a program in the place of the cells; returns a function that runs a sweep of them."""
    monkeypatch.chdir(tmp_path)

    def run(grid, program=FINISH, **options):
        def stub_command(config, job, folder, passed_on):
            names = [cell.name for cell in job]
            return [sys.executable, "-c", DONE + program, str(folder), *names, *passed_on]

        monkeypatch.setattr(sweep, "command", stub_command)
        options = {"jobs": 1, "gpus": [], "passed_on": [], **options}
        failed = run_sweep("digits.py", parse_grid(grid), tmp_path, **options)
        return [cell.name for cell in failed]

    def notes():
        path = tmp_path / "notes.txt"
        return path.read_text().splitlines() if path.exists() else []

    run.notes, run.folder = notes, tmp_path
    return run


def test_cells_are_all_combinations_the_last_axis_fastest():
    cells = parse_grid(" method=set,rigl ; sparsity=0.8, 0.9;seed=0 ;")
    assert [cell.name for cell in cells] == [
        "method=set,sparsity=0.8,seed=0",
        "method=set,sparsity=0.9,seed=0",
        "method=rigl,sparsity=0.8,seed=0",
        "method=rigl,sparsity=0.9,seed=0",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "the grid is empty"),
        (" ; ", "the grid is empty"),
        ("method", "an axis of the grid is name=value,value; got 'method'"),
        ("method=", "got 'method='"),
        ("method=, ,", "got 'method=, ,'"),
        ("sparcity=0.9", "unknown axis 'sparcity'; known: augment, average, "),
        ("seed=0;seed=1", "axis 'seed' is named twice"),
        ("seed=0,1,0", "axis 'seed' has a value twice, got 0,1,0"),
    ],
)
def test_a_grid_that_is_none_is_refused(text, line):
    with pytest.raises(ConfigError, match=re.escape(line)):
        parse_grid(text)


def config_of(words):
    """The config that the `--config=` of a command stands for."""
    [chosen] = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    return digits.get_config(chosen.partition(":")[2])


def test_a_cell_is_a_call_of_the_main_job(tmp_path):
    [cell] = parse_grid("method=set;sup=false;seed=3")
    given = command("digits.py:sparsity=0.8", (cell,), tmp_path, ["--config.epochs=9"])
    assert given[:3] == [sys.executable, "-m", "experiments.main"]
    assert given[-2:] == [f"--workdir={tmp_path}/method=set,sup=false,seed=3", "--config.epochs=9"]
    config = config_of(given)
    assert (config.method, config.sparsity, config.seed) == ("set", 0.8, 3)
    assert not config.sup_tickets.enabled


def test_seeds_together_are_one_call_into_the_same_folders(tmp_path):
    [job] = group_seeds(parse_grid("method=set;seed=3,4;sparsity=0.8"))
    given = command("digits.py", job, tmp_path, [])
    assert given[2] == "experiments.seeds"
    name = "method=set,seed={seed},sparsity=0.8"
    assert given[-2:] == ["--seeds=3,4", f"--workdir={tmp_path}/{name}"]
    assert config_of(given).sparsity == 0.8
    places = [given[-1].partition("=")[2].replace("{seed}", dict(c.words)[SEED]) for c in job]
    assert places == [f"{tmp_path}/{cell.name}" for cell in job]


def test_what_is_missing_runs_and_what_is_finished_is_skipped(stub, capsys):
    assert stub("seed=0,1") == []
    assert stub("seed=0,1,2") == []
    assert stub.notes() == ["+seed=0", "+seed=1", "+seed=2"]
    printed = capsys.readouterr().out
    assert "3 cells, 2 finished before, 1 to run" in printed
    assert "seed=2: net, accuracy 50.00%" in printed


def test_a_summary_that_was_cut_short_runs_again(stub):
    stub("seed=0,1")
    (stub.folder / "seed=1" / "summary.json").write_text('{"res')
    stub("seed=0,1")
    assert stub.notes() == ["+seed=0", "+seed=1", "+seed=1"]


FAIL_ONE = """
if names == ["seed=1"]:
    print("working")
    sys.exit("error: no luck")
finish(*names)
"""


def test_a_failing_cell_is_reported_and_stops_no_other(stub, capsys):
    assert stub("seed=0,1,2", FAIL_ONE) == ["seed=1"]
    assert stub.notes() == ["+seed=0", "+seed=1", "+seed=2"]
    assert "seed=1: failed with status 1: error: no luck" in capsys.readouterr().out
    assert stub("seed=0,1,2") == []  # once it is mended, the same sweep runs it alone
    assert stub.notes()[3:] == ["+seed=1"]


def test_a_cell_that_ends_without_a_summary_has_failed(stub, capsys):
    assert stub("seed=0", "pass") == ["seed=0"]
    assert "seed=0: failed with status 0: no output" in capsys.readouterr().out


MEET = """
import time
other = {"seed=0": "seed=1", "seed=1": "seed=0"}[names[0]]
(folder / names[0] / "here").touch()
for _ in range(600):
    if (folder / other / "here").exists():
        finish(*names)
        break
    time.sleep(0.1)
"""


def test_two_jobs_run_at_the_same_time(stub):
    assert stub("seed=0,1", MEET, jobs=2) == []


ALONE = """
(folder / "running").mkdir()
finish(*names)
(folder / "running").rmdir()
"""


def test_one_job_runs_one_cell_after_the_other(stub):
    assert stub("seed=0,1,2", ALONE) == []


GPU = "note(os.environ['CUDA_VISIBLE_DEVICES'] + ' ' + names[1]); finish(names[0])"


def test_cells_are_dealt_to_gpus_and_get_the_further_flags(stub):
    assert stub("seed=0,1,2", GPU, gpus=["4", "6"], passed_on=["--x"]) == []
    dealt = [note for note in stub.notes() if not note.startswith("+")]
    assert len(dealt) == 3
    assert {"4 --x", "6 --x"} == set(dealt)


def test_seeds_together_share_a_process(stub, capsys):
    grid = "method=set,rigl;seed=0,1"
    finish_first = "finish(names[0]); sys.exit('error: seed 1 diverged')"
    assert stub(grid, finish_first, together=True) == ["method=set,seed=1", "method=rigl,seed=1"]
    assert stub.notes() == [
        "+method=set,seed=0 method=set,seed=1",
        "+method=rigl,seed=0 method=rigl,seed=1",
    ]
    printed = capsys.readouterr().out
    assert "method=set,seed=0: net" in printed
    assert "method=set,seed=1: failed with status 1: error: seed 1 diverged" in printed
    assert stub(grid, together=True) == []
    assert stub.notes()[2:] == ["+method=set,seed=1", "+method=rigl,seed=1"]


SAVE_WHEN_STOPPED = """
import signal, time
def stop(number, frame):
    (folder / names[0] / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
(folder / names[0] / "ready").touch()
time.sleep(60)
"""


def test_ctrl_c_lets_the_running_cells_save(stub, monkeypatch):
    def sleep(seconds):
        if (stub.folder / "seed=0" / "ready").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(sweep.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        stub("seed=0,1", SAVE_WHEN_STOPPED)
    assert (stub.folder / "seed=0" / "saved").exists()
    assert stub.notes() == ["+seed=0"]
    monkeypatch.undo()


def test_the_log_of_a_cell_is_kept_over_its_starts(stub):
    stub("seed=0", "print('first')")
    stub("seed=0", "print('second'); finish(*names)")
    assert (stub.folder / "seed=0" / "log.txt").read_text() == "first\nsecond\n"


def test_a_result_without_scores_is_said_to_be_finished(stub, capsys):
    bare = {"result": "net", "networks": [{"name": "net"}]}
    program = f"(folder / names[0] / 'summary.json').write_text({json.dumps(bare)!r})"
    assert stub("seed=0", program) == []
    assert "seed=0: finished in" in capsys.readouterr().out
