"""A short fault drill: a run and a preparation of data, each ended in several ways."""

import json
import subprocess
import sys

import pytest

from tests.experiments.main_job import fault_drill
from tests.helpers.main_command import ENVIRONMENT, ROOT


def test_the_plan_has_60_ends_of_every_kind_spread_over_the_run():
    every = [fault_drill.plan_ends(table, 64, seed=3) for table in fault_drill.PLAN.values()]
    assert sum(map(len, every)) == 60
    signals = {end.how[0] for ends in every for end in ends}
    assert {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "full disk"} < signals
    ends = every[0]
    moments = [end.moment for end in ends]
    assert moments == sorted(moments, key=lambda m: {"finish": 1, "plots": 2}.get(m, 0))
    steps = [end.step for end in ends if end.moment not in ("finish", "plots")]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (pytest.approx(1, abs=2), pytest.approx(63, abs=3))
    assert ends == fault_drill.plan_ends(fault_drill.PLAN["main"], 64, seed=3)
    assert ends != fault_drill.plan_ends(fault_drill.PLAN["main"], 64, seed=4)


@pytest.mark.parametrize(
    ("how", "allowed", "refused"),
    [
        (("SIGKILL",), [-9], [0, 1, 137]),
        (("SIGTERM", "SIGTERM"), [143, -15], [0, 1, None]),
        (("SIGINT",), [130, -2], [1, 143]),
        (("SIGHUP",), [129, -1], [1, 143]),
        (fault_drill.FULL, [1, 4], [0, 2, -9]),
    ],
)
def test_only_the_usual_status_passes(how, allowed, refused):
    end = fault_drill.End(how, "step", 0, 0.0)
    assert [end.allows(status) for status in allowed] == [True] * len(allowed)
    assert [end.allows(status) for status in refused] == [False] * len(refused)


def test_what_was_ended_again_and_again_ends_bit_for_bit_like_what_was_not(tmp_path):
    output = tmp_path / "drill.json"
    words = ["--short", f"--workdir={tmp_path / 'runs'}", f"--output={output}"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.experiments.main_job.fault_drill", *words],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "ends, 0 files differ" in done.stdout
    rows = json.loads(output.read_text())["rows"]
    assert {row["command"] for row in rows} == {"main", "prepare_data"}
    for row in rows:
        assert row["different"] == []
        assert row["compared"] >= (5 if row["command"] == "prepare_data" else 30)
    run = tmp_path / "runs" / "undisturbed" / "main"
    found = fault_drill.fingerprints(run)
    (run / "result.npz").write_bytes(b"another")
    changed = fault_drill.fingerprints(run)
    assert {name for name in found if found[name] != changed[name]} == {"result.npz"}
