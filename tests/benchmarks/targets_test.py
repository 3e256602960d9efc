import json
from importlib.util import find_spec

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.targets import TARGETS, Target, lines_of, print_targets

LEAST = Target("theirs / ours", "peers", r"update, .*", 20, at_least=True)
MOST = Target("sparse / dense", "steps", r"step, .*", 1.02)


def test_the_worst_ratio_decides():
    results = {"ratios": {"step, a": 1.0, "step, b": 1.05, "other": 9.0}}
    assert [(line.name, line.met) for line in lines_of(MOST, results)] == [
        ("step, b", False),
        ("step, a", True),
    ]
    results = {"ratios": {"update, a": 30.0, "update, b": 20.0}, "spreads": {"update, b": [19, 21]}}
    lines = lines_of(LEAST, results)
    assert [line.met for line in lines] == [True, True]
    assert (lines[0].name, lines[0].spread) == ("update, b", [19, 21])


def test_table_says_what_was_measured_and_what_was_not(tmp_path, capsys):
    results = {"ratios": {"step, a": 1.0, "step, b": 1.05}, "spreads": {"step, b": [1.04, 1.06]}}
    (tmp_path / "steps.json").write_text(json.dumps(results))
    print_targets(tmp_path, [MOST, LEAST])
    _, _, measured, missing = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in measured[1:-1].split("|")]
    assert cells[1:] == ["<= 1.02", "1.05", "1.04 to 1.06", "step, b", "missed (1 of 2)"]
    assert missing.endswith("not measured |")


def test_all_benchmarks_are_modules():
    missing = [n for n in benchmarks.BENCHMARKS if find_spec(f"benchmarks.{n}") is None]
    assert not missing


def test_targets_name_benchmarks_that_are_run():
    assert {target.benchmark for target in TARGETS} <= set(benchmarks.BENCHMARKS)


def test_unknown_benchmark_is_named(capsys):
    with pytest.raises(SystemExit):
        benchmarks.main(["--only", "stepp"])
    assert "unknown benchmark 'stepp'; known: floor, selection" in capsys.readouterr().err


def test_a_failing_benchmark_is_reported_and_the_others_run(tmp_path, monkeypatch, capsys):
    ran = []

    def run(name, folder, toy):
        ran.append((name, folder, toy))
        return int(name == "floor")

    monkeypatch.setattr(benchmarks, "run", run)
    with pytest.raises(SystemExit, match="failed: floor"):
        benchmarks.main(["--only", "floor,seeds", "--toy", "--folder", str(tmp_path)])
    assert ran == [("floor", tmp_path, True), ("seeds", tmp_path, True)]
    assert "== targets" in capsys.readouterr().out
