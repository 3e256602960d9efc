"""Sweeps, with small programs in place of the runs."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import sweep
from experiments.configs import digits
from experiments.errors import ConfigError
from experiments.study.children import open_log
from experiments.sweep import SEED, Sweep, SweepStoppedError, command, group_seeds, parse_grid

ROOT = Path(__file__).parents[2]

STUB = """
import json, os, pathlib, sys
folder, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
def finish(name):
    network = {"name": "net", "test": {"accuracy": 0.5}}
    content = {"result": "net", "networks": [network], "wall_seconds": 75}
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "summary.json").write_text(json.dumps(content))
def note(text):
    with open(folder / "notes.txt", "a") as file:
        print(text, file=file)
note("+" + " ".join(names))
"""
"""Start of every stub: what it was called with, and how it finishes a run."""

FINISH = "for name in names: finish(name)"


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """Put a program in the place of the runs; returns a function that runs a sweep of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")

    def stub_command(config, job, folder, passed_on):
        names = [each.name for each in job]
        return [sys.executable, "-m", "stub", str(folder), *names, *passed_on]

    monkeypatch.setattr(sweep, "command", stub_command)

    def run(grid, program=FINISH, *, jobs=1, gpus=(), **options):
        (tmp_path / "stub.py").write_text(STUB + program)
        runs = parse_grid(grid)
        swept = Sweep("digits.py", runs, tmp_path, **options)
        swept.run(jobs=jobs, gpus=gpus)
        run.last = swept
        return [each.name for each in runs if not swept.finished(each)]

    def notes():
        path = tmp_path / "notes.txt"
        return path.read_text().splitlines() if path.exists() else []

    run.notes, run.folder = notes, tmp_path
    return run


def test_runs_are_all_combinations_the_last_axis_fastest():
    runs = parse_grid(" method=set,rigl ; sparsity=0.8, 0.9;seed=0 ;")
    assert [run.name for run in runs] == [
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


def test_a_run_is_a_call_of_the_main_job(tmp_path):
    [run] = parse_grid("method=set;sup=false;seed=3")
    given = command("digits.py:sparsity=0.8", (run,), tmp_path, ["--config.epochs=9"])
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
    places = [given[-1].partition("=")[2].replace("{seed}", dict(run.words)[SEED]) for run in job]
    assert places == [f"{tmp_path}/{run.name}" for run in job]


def test_what_is_missing_runs_and_what_is_finished_is_skipped(stub, capsys):
    assert stub("seed=0,1") == []
    assert stub("seed=0,1,2") == []
    assert stub.notes() == ["+seed=0", "+seed=1", "+seed=2"]
    printed = capsys.readouterr().out
    assert "3 runs, 2 finished before, 1 to go" in printed
    assert "seed=2: net, accuracy 50.00 %, in 0:0" in printed


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


def test_a_failing_run_is_reported_and_stops_no_other(stub, capsys):
    assert stub("seed=0,1,2", FAIL_ONE) == ["seed=1"]
    assert stub.notes() == ["+seed=0", "+seed=1", "+seed=2"]
    printed = capsys.readouterr().out
    assert "seed=1: failed with status 1: error: no luck" in printed
    assert "  1 finished, 1 left of 3; 0:0" not in printed  # seed 2 starts at once
    assert "  1 finished, 1 failed, 1 left of 3; 0:0" in printed
    assert "  2 finished, 1 failed, 0 left of 3; 0:0" in printed
    assert [run.name for run in stub.last.failed] == ["seed=1"]
    assert stub("seed=0,1,2") == []  # once it is mended, the same sweep runs it alone
    assert stub.notes()[3:] == ["+seed=1"]


def test_a_run_that_ends_without_a_summary_has_failed(stub, capsys):
    assert stub("seed=0", "pass") == ["seed=0"]
    assert "seed=0: failed with status 0: no output" in capsys.readouterr().out


def test_what_is_finished_is_a_table(stub):
    stub("method=set,rigl_itop;seed=0")
    (stub.folder / "method=set,seed=0" / "summary.json").unlink()
    assert stub.last.table().splitlines() == [
        "run                      result  accuracy     time",
        "method=rigl_itop,seed=0  net      50.00 %  0:01:15",
    ]


def test_progress_counts_what_is_through_and_estimates_the_rest(stub, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(sweep.time, "monotonic", lambda: now[0])
    swept = Sweep("digits.py", parse_grid("seed=0,1,2,3"), stub.folder)
    assert swept.progress() == "0 finished, 4 left of 4; 0:00:00 so far"
    monkeypatch.setattr(sweep.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + 30))
    lines = []
    monkeypatch.setattr(sweep, "say", lines.append)
    monkeypatch.setattr(sweep, "Children", OneAfterTheOther)
    swept.run(jobs=2)
    told = [line.strip() for line in lines if "left" in line]
    assert told == [
        "0 finished, 1 failed, 1 running, 2 left of 4; 0:00:00 so far, about 0:00:00 to go",
        "0 finished, 2 failed, 1 running, 1 left of 4; 0:00:30 so far, about 0:00:30 to go",
        "0 finished, 3 failed, 1 running, 0 left of 4; 0:01:00 so far, about 0:00:20 to go",
        "0 finished, 4 failed, 0 left of 4; 0:01:30 so far",
    ]


class OneAfterTheOther(contextlib.nullcontext):
    """Children of which one ends at every look, without processes."""

    def __init__(self):
        super().__init__(self)
        self.running = []

    def start(self, command, logs, environment):
        class Child:
            process = subprocess.CompletedProcess((), 1)

            def last_line(self):
                return "no luck"

        for log in logs:
            log.close()
        self.running.append(Child())
        return self.running[-1]

    def take_ended(self):
        return [self.running.pop(0)] if self.running else []


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


def test_one_job_runs_one_run_after_the_other(stub):
    assert stub("seed=0,1,2", ALONE) == []


GPU = "note(os.environ['CUDA_VISIBLE_DEVICES'] + ' ' + names[1]); finish(names[0])"


def test_runs_are_dealt_to_gpus_and_get_the_further_flags(stub):
    assert stub("seed=0,1,2", GPU, gpus=["4", "6"], passed_on=["--x"]) == []
    dealt = [note for note in stub.notes() if not note.startswith("+")]
    assert len(dealt) == 3
    assert {"4 --x", "6 --x"} == set(dealt)


FINISH_FIRST = "print('both train'); finish(names[0]); sys.exit('error: seed 1 diverged')"


def test_seeds_together_share_a_process_and_each_has_the_log(stub, capsys):
    grid = "method=set,rigl;seed=0,1"
    assert stub(grid, FINISH_FIRST, together=True) == ["method=set,seed=1", "method=rigl,seed=1"]
    assert stub.notes() == [
        "+method=set,seed=0 method=set,seed=1",
        "+method=rigl,seed=0 method=rigl,seed=1",
    ]
    printed = capsys.readouterr().out
    assert "method=set,seed=0: net" in printed
    assert "method=set,seed=1: failed with status 1: error: seed 1 diverged" in printed
    assert stub(grid, "print('alone'); finish(*names)", together=True) == []
    assert stub.notes()[2:] == ["+method=set,seed=1", "+method=rigl,seed=1"]
    both = "both train\nerror: seed 1 diverged\n"
    for seed, text in (("0", both), ("1", f"{both}alone\n")):
        assert (stub.folder / f"method=set,seed={seed}" / "log.txt").read_text() == text


def test_the_log_of_a_run_is_kept_over_its_starts(stub, capsys):
    stub("seed=0", "print('first')")
    stub("seed=0", "pass")
    assert "failed with status 0: no output" in capsys.readouterr().out  # of the second start
    stub("seed=0", "print('second'); finish(*names)")
    assert (stub.folder / "seed=0" / "log.txt").read_text() == "first\nsecond\n"


def test_a_result_without_scores_has_no_accuracy(stub, capsys):
    bare = {"result": "net", "networks": [{"name": "net"}]}
    program = f"(folder / names[0] / 'summary.json').write_text({json.dumps(bare)!r})"
    assert stub("seed=0", program) == []
    assert "seed=0: net, accuracy -, in" in capsys.readouterr().out
    assert stub.last.table().splitlines()[1].split() == ["seed=0", "net", "-", "-"]


@pytest.mark.parametrize("together", [False, True])
def test_a_run_that_another_sweep_has_started_is_in_use_and_keeps_its_log(stub, capsys, together):
    log = open_log(stub.folder / "seed=1" / "log.txt")
    log.write(b"of the other sweep\n")
    log.flush()
    assert stub("seed=0,1,2", together=together) == ["seed=1"]
    assert "seed=1: in use by another process\n" in capsys.readouterr().out
    assert " ".join(stub.notes()).count("seed=1") == 0
    assert [run.name for run in stub.last.busy] == ["seed=1"]
    assert (stub.folder / "seed=1" / "log.txt").read_text() == "of the other sweep\n"
    log.close()
    assert stub("seed=0,1,2", together=together) == []


OTHER_FINISHES_ONE = "finish(names[0]); finish('seed=1')"


def test_what_another_sweep_has_finished_meanwhile_is_not_started(stub):
    assert stub("seed=0,1,2", OTHER_FINISHES_ONE) == []
    assert stub.notes() == ["+seed=0", "+seed=2"]
    assert stub.last.progress().startswith("3 finished, 0 left of 3; ")


SAVE_WHEN_STOPPED = """
import signal, time
def stop(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a run: a second one ends it at once
    time.sleep(0.3)
    print("saved", flush=True)
    (folder / names[0] / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
(folder / names[0] / "ready").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_running_runs_save(stub, monkeypatch, capsys, number):
    sleep, sent = time.sleep, []

    def sleep_and_signal(seconds):
        sleep(seconds)
        if (stub.folder / "seed=0" / "ready").exists() and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(sweep.time, "sleep", sleep_and_signal)
    with pytest.raises(SweepStoppedError, match=f"{number.name}; the same command") as stopped:
        stub("seed=0,1", SAVE_WHEN_STOPPED)
    assert stopped.value.exit_code == 128 + number
    assert (stub.folder / "seed=0" / "saved").exists()
    assert stub.notes() == ["+seed=0"]
    assert "stopping 1 process after saving" in capsys.readouterr().out


def test_a_mistake_in_the_sweep_lets_the_running_runs_save(stub, monkeypatch):
    def fail(seconds):
        if (stub.folder / "seed=0" / "ready").exists():
            raise ZeroDivisionError

    monkeypatch.setattr(sweep.time, "sleep", fail)
    with pytest.raises(ZeroDivisionError):
        stub("seed=0,1", SAVE_WHEN_STOPPED)
    monkeypatch.undo()
    assert (stub.folder / "seed=0" / "saved").exists()


REAL = """
import sys
from experiments import sweep
from experiments.command_line import run_command

def stub_command(config, job, folder, passed_on):
    return [sys.executable, "-m", "stub", str(folder), *(run.name for run in job)]

sweep.command = stub_command
run_command(sweep.define_flags, sweep.main, arguments=True)
"""


@pytest.fixture
def real(tmp_path):
    """Start the command as a process of its own, with stubs in place of the runs."""
    started = []

    def start(program, *flags):
        (tmp_path / "stub.py").write_text(STUB + program)
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", REAL, f"--folder={tmp_path}", *flags],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(*paths):
    for _ in range(600):
        if all(path.exists() for path in paths):
            return True
        time.sleep(0.05)
    return False


ENDS = {
    signal.SIGINT: (130,),
    signal.SIGTERM: (143,),
    signal.SIGHUP: (129, -signal.SIGHUP),
    signal.SIGKILL: (-signal.SIGKILL,),
}


@pytest.mark.parametrize("number", ENDS)
def test_runs_save_and_stop_however_their_sweep_ends(real, tmp_path, number):
    flags = ["--grid=method=set,rigl;seed=0,1", "--together", "--jobs=2"]
    process = real(SAVE_WHEN_STOPPED, *flags)
    folders = [tmp_path / f"method={method},seed=0" for method in ("set", "rigl")]
    assert wait_for(*(folder / "ready" for folder in folders))
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode in ENDS[number], printed
    assert wait_for(*(folder / "saved" for folder in folders))
    if process.returncode > 0:
        assert f"stopped: {number.name}; the same command continues" in printed
    logs = [folder.with_name(f"{folder.name[:-1]}1") / "log.txt" for folder in folders]
    for log in logs:  # what is printed after the sweep's end is kept too, for every seed
        assert any("saved" in log.read_text() or time.sleep(0.05) for _ in range(200))


PRINTING = f"print('to the log'); print('to the log too', file=sys.stderr)\n{FINISH}"


def test_a_sweep_with_all_standard_streams_closed_does_its_work(tmp_path):
    (tmp_path / "stub.py").write_text(STUB + PRINTING)
    words = [sys.executable, "-c", REAL, f"--folder={tmp_path}", "--grid=seed=0,1", "--together"]
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(words)} <&- >&- 2>&-"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )
    assert done.returncode == 0
    for seed in (0, 1):
        log = (tmp_path / f"seed={seed}" / "log.txt").read_text()
        assert sorted(log.splitlines()) == ["to the log", "to the log too"]


def test_the_command_names_what_is_left_and_ends_with_1(real, tmp_path):
    process = real(FAIL_ONE, "--grid=seed=0,1,2")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert printed.splitlines()[-1] == "error: 1 of 3 runs are not finished: seed=1 (failed)"
    table = [line.split() for line in printed.splitlines()[-4:-1]]
    assert [words[0] for words in table] == ["run", "seed=0", "seed=2"]


def test_a_dry_run_prints_commands_and_starts_nothing(tmp_path):
    flags = ["--grid=method=set;seed=0,1", f"--folder={tmp_path / 'a b'}", "--together"]
    words = [sys.executable, "-m", "experiments.sweep", "--dry_run", *flags, "--", "--config.x=1"]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [line] = printed.splitlines()
    [job] = group_seeds(parse_grid("method=set;seed=0,1"))
    config = sweep.CONFIGS / "digits.py"
    assert shlex.split(line) == command(str(config), job, tmp_path / "a b", ["--config.x=1"])
    assert not list(tmp_path.iterdir())
