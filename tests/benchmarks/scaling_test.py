import json
from contextlib import ExitStack

import pytest

from benchmarks import scaling
from experiments.command_line import CONFIGS
from tests.helpers.main_command import CACHE


def test_scaling_benchmark_prints_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    output = tmp_path / "scaling.json"
    scaling.main(["--toy", "--output", str(output)])
    written = json.loads(output.read_text())
    names = ["1 device", "2 devices", "2 processes"]
    assert list(written["seconds_an_epoch"]) == names
    alone = written["seconds_an_epoch"]["1 device"]["median"]
    for name in names:
        ratio = written["seconds_an_epoch"][name]["median"] / alone
        assert written["ratios"][f"{name}, over 1 device"] == ratio
    assert written["steps_an_epoch"] == 19
    assert "| 2 processes |" in capsys.readouterr().out


def test_a_process_that_fails_ends_the_benchmark(tmp_path):
    missing = str(CONFIGS / "missing.py")
    with ExitStack() as stack, pytest.raises(RuntimeError, match="has ended early"):
        scaling.contenders(scaling.CONTENDERS[:1], missing, True, tmp_path, stack)
