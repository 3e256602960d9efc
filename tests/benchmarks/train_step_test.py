import json

import jax
import numpy as np
import pytest

from benchmarks import train_step
from benchmarks.loops import Loop, Pairs, time_pairs
from benchmarks.memory import peak_device_bytes
from benchmarks.training import Training, lowered, method_groups
from supjax.topologies import METHODS

PERIODIC = [name for name in METHODS if name != "dense"]


def test_train_step_benchmark_prints_and_writes(tmp_path, capsys):
    output = tmp_path / "train_step.json"
    train_step.main(["--toy", "--output", str(output)])
    written = json.loads(output.read_text())
    measured = {train_step.REGULAR: [], train_step.TOPOLOGY: []}
    for row in written["rows"]:
        measured[row["step"]] += row["methods"]
        assert row["ratio_lower"] <= row["ratio"] <= row["ratio_upper"]
        assert row["ratio_of_medians"] == row["second"] / row["first"]
        held = row["bytes"]
        assert held["masks"] <= held["params"] / 4
        assert held["topology"] >= 2 * held["masks"]
        for method in row["methods"]:
            name = f"{row['network']}, {row['step']}, {method}"
            assert written["ratios"][name] == row["ratio"]
            assert written["spreads"][name] == [row["ratio_lower"], row["ratio_upper"]]
    assert sorted(measured[train_step.REGULAR]) == sorted(METHODS)
    assert sorted(measured[train_step.TOPOLOGY]) == sorted(PERIODIC)
    assert " ratio |" in capsys.readouterr().out


def test_methods_of_one_group_compile_to_the_same_step():
    training = Training("lenet_300_100", 10, 8, 2, width=0.05)
    for moving, step in ((False, training.regular), (True, training.topology)):
        groups = method_groups(training, PERIODIC, moving=moving)
        programs = [{lowered(*step(name)) for name in group} for group in groups]
        assert [len(texts) for texts in programs] == [1] * len(groups)
        assert len(set.union(*programs)) == len(groups)


def test_a_loop_gives_its_old_state_up_and_keeps_the_given_one():
    given = np.zeros(3, np.float32)
    start = jax.device_put(given)
    loop = Loop(lambda state, data: state + data, start, 2.0)
    first = loop()
    loop.steps = 3
    assert loop().tolist() == [8.0, 8.0, 8.0]
    assert first.is_deleted()
    assert start.tolist() == [0.0, 0.0, 0.0]
    assert loop.temporary_bytes >= 0


def test_pairs_take_turns_in_going_first():
    calls = []
    pairs = time_pairs(lambda: calls.append("a"), lambda: calls.append("b"), most=4, budget=60.0)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert len(pairs.first) == len(pairs.second) == 4
    few = time_pairs(lambda: None, lambda: None, most=4, budget=0.0)
    assert few.summary()["pairs"] == 3


def test_summary_takes_ratios_of_neighbours():
    summary = Pairs([1.0, 10.0, 2.0], [2.0, 20.0, 8.0]).over(2).summary()
    assert (summary["first"], summary["second"]) == (1.0, 4.0)
    assert (summary["ratio"], summary["ratio_of_medians"]) == pytest.approx((2.0, 4.0))
    assert (summary["ratio_lower"], summary["ratio_upper"]) == pytest.approx((2.0, 3.0))


def test_a_cpu_counts_no_device_memory():
    assert peak_device_bytes(untouched) is None


def untouched():
    raise AssertionError("a device without a count is left alone")
