import json

import pytest

from benchmarks import startup


def test_startup_benchmark_prints_and_writes(tmp_path, capsys):
    output = tmp_path / "startup.json"
    startup.main(["--toy", "--output", str(output)])
    written = json.loads(output.read_text())
    [(name, kinds)] = written["seconds_of_starts"].items()
    for (taken,) in kinds.values():
        parts = taken["imports"] + taken["data and initial state"]
        assert 0 < parts < taken["start to first step"]
    field = "start to first step"
    expected = kinds["warm"][0][field] / kinds["cold"][0][field]
    assert written["ratios"][f"{name}, {field}: warm / cold"] == pytest.approx(expected)
    times = written["seconds_a_step"]
    expected = times[startup.STEPWISE]["median"] / times[startup.ALONE]["median"]
    ratio = f"tiny network, a step: {startup.STEPWISE} / {startup.ALONE}"
    assert written["ratios"][ratio] == pytest.approx(expected)
    assert "| run, stepwise" in capsys.readouterr().out
