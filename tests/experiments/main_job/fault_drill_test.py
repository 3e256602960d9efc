"""A short fault drill: the real command killed in a checkpoint and in its report."""

import json

import pytest

from tests.experiments.main_job import fault_drill
from tests.helpers.main_command import CACHE


def test_kills_are_spread_over_the_run_and_half_of_them_meet_a_save():
    kills = fault_drill.plan_kills(20, 100, seed=3)
    assert [kill.moment for kill in kills].count("save") == 10
    assert {kill.moment for kill in kills} == {"save", "step", "ticket", "start", "report"}
    assert [kill.step // 5 for kill in kills] == list(range(20))
    assert kills == fault_drill.plan_kills(20, 100, seed=3)
    assert kills != fault_drill.plan_kills(20, 100, seed=4)


def test_a_killed_run_ends_bit_for_bit_like_an_undisturbed_one(tmp_path, capsys):
    output = tmp_path / "drill.json"
    with pytest.raises(SystemExit) as end:
        fault_drill.main(
            [
                *("--toy", "--kills=2", f"--workdir={tmp_path / 'runs'}", f"--output={output}"),
                *("--", f"--config.runtime.compilation_cache={CACHE}"),
                *("--config.model.name=lenet_300_100", "--config.model.width=0.1"),
            ]
        )
    told = capsys.readouterr()
    assert end.value.code == 0, told
    assert "not one bit differs" in told.out
    written = json.loads(output.read_text())
    assert [death["moment"] for death in written["deaths"]] == ["save", "report"]
    assert all("step" in death["continued"] for death in written["deaths"])
    assert written["different"] == []
    assert written["compared"] > 30
    found = fault_drill.fingerprints(tmp_path / "runs" / "disturbed")
    (tmp_path / "runs" / "disturbed" / "result.npz").write_bytes(b"another")
    changed = fault_drill.fingerprints(tmp_path / "runs" / "disturbed")
    assert {name for name in found if found[name] != changed[name]} == {"result.npz"}
