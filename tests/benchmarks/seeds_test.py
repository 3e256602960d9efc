import json

import pytest

from benchmarks import seeds


def test_seeds_benchmark_prints_and_writes(tmp_path, capsys):
    output = tmp_path / "seeds.json"
    seeds.main(["--toy", "--output", str(output)])
    written = json.loads(output.read_text())
    assert list(written["seconds_an_epoch"]) == ["1", "2"]
    first, second = (written["seconds_an_epoch"][name]["median"] for name in ("1", "2"))
    assert list(written["ratios"].values()) == pytest.approx([1.0, 2 * first / second])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names, _, alone, _ = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
    assert names == ["seeds together", "median", "least to most", "times one by one"]
    assert alone[-1] == "1.00"
