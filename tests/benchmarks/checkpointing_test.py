import json

import jax
import numpy as np
import pytest

from benchmarks import checkpointing
from benchmarks.shapes import random_network


def test_checkpointing_benchmark_prints_and_writes(tmp_path, capsys):
    output = tmp_path / "checkpointing.json"
    checkpointing.main(["--toy", "--output", str(output), "--folder", str(tmp_path)])
    written = json.loads(output.read_text())
    sizes = written["bytes"]
    assert list(sizes) == ["checkpoint", "ticket at 80 %", "ticket at 90 %", "ticket at 95 %"]
    for case in list(sizes)[1:]:
        expected = sizes[case][checkpointing.OURS] / sizes[case]["dense float32"]
        name = f"{case}, bytes: {checkpointing.OURS} / dense float32"
        assert written["ratios"][name] == pytest.approx(expected)
        assert written["seconds"][f"{case}, load"][checkpointing.OURS]["median"] > 0
    taken = written["seconds"]["checkpoint, save"]
    expected = taken[checkpointing.DENSE]["median"] / taken[checkpointing.SPARSE]["median"]
    name = f"checkpoint, save, seconds: {checkpointing.DENSE} / {checkpointing.SPARSE}"
    assert written["ratios"][name] == pytest.approx(expected)
    assert "| checkpoint, restore" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["checkpointing.json"]


@pytest.mark.parametrize(
    ("kind", "method", "options"),
    [
        (checkpointing.SparseCheckpoints, "rigl", {"density": 0.1}),
        (checkpointing.DenseCheckpoints, "dense", {}),
    ],
)
def test_both_ways_bring_the_state_back(tmp_path, kind, method, options):
    state = checkpointing.training_state(random_network(toy=True), method, **options)
    way = kind(tmp_path, state)
    way.save()
    way.save()
    restored = way.restore()
    jax.tree.map(np.testing.assert_array_equal, state.params, restored.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, restored.opt_state)
