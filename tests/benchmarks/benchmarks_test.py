import json
import math

import jax
import numpy as np
import pytest

from benchmarks import cpu_step, selection, train_step
from benchmarks.common import time_interleaved
from benchmarks.shapes import resnet50_kernels


def test_resnet50_has_the_published_number_of_weights():
    kernels = resnet50_kernels()
    assert len(kernels) == 54
    assert sum(map(math.prod, kernels.values())) == 25_502_912


@pytest.mark.parametrize(
    ("benchmark", "flag", "message"),
    [
        (train_step, "--networks=resnet33", "unknown network 'resnet33'; known: resnet32, vgg16"),
        (train_step, "--methods=rigl,sett", "unknown method 'sett'; known: all, "),
        (cpu_step, "--networks=vgg", "unknown network 'vgg'; known: digits_cnn"),
    ],
)
def test_a_misspelt_name_is_answered_in_one_line(benchmark, flag, message, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main([flag])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_spent_budget_leaves_three_calls():
    calls = {"first": 0, "second": 0}

    def call(name):
        calls[name] += 1
        return np.zeros(1)

    timings = time_interleaved(
        {name: lambda name=name: call(name) for name in calls}, repetitions=9, budget=1e9
    )
    assert calls == {"first": 10, "second": 10}  # one more to compile
    assert {timing.repetitions for timing in timings.values()} == {9}
    assert all(t.least <= t.median <= t.most for t in timings.values())

    timings = time_interleaved({"first": lambda: call("first")}, repetitions=9, budget=0.0)
    assert timings["first"].repetitions == 3


@pytest.mark.parametrize("case", selection.make_cases(toy=True), ids=lambda case: case.name)
def test_all_contenders_select_the_same(case):
    masks = {name: selection.prepare(name, case)() for name in (selection.OURS, *selection.RIVALS)}
    for rival in masks.values():
        jax.tree.map(np.testing.assert_array_equal, masks[selection.OURS], rival)
    assert [mask.shape for mask in masks[selection.OURS]] == list(case.shapes)


def test_selection_benchmark_prints_and_writes(tmp_path, capsys):
    selection.main(["--toy", "--output", str(tmp_path / "selection.json")])
    written = json.loads((tmp_path / "selection.json").read_text())
    names = [case.name for case in selection.make_cases(toy=True)]
    assert list(written["seconds"]) == names
    first = {name: taken["median"] for name, taken in written["seconds"][names[0]].items()}
    ratio = first["jnp.sort"] / first[selection.OURS]
    assert written["ratios"][f"{names[0]}: jnp.sort / {selection.OURS}"] == ratio
    assert written["added_bytes"][names[-1]][selection.OURS] >= 0
    assert written["environment"]["versions"]["jax"] == jax.__version__
    assert "| 1,000 scores" in capsys.readouterr().out
