import json

import jax
import numpy as np
import pytest

from benchmarks import epoch


def test_epoch_benchmark_prints_and_writes(tmp_path, capsys):
    output = tmp_path / "epoch.json"
    epoch.main(["--toy", "--output", str(output)])
    written = json.loads(output.read_text())
    assert len(written["seconds_an_epoch"]) == 2
    for workload, taken in written["seconds_an_epoch"].items():
        expected = taken[epoch.PLAIN]["median"] / taken[epoch.STEPWISE]["median"]
        name = f"{workload}: {epoch.PLAIN} / {epoch.STEPWISE}"
        assert written["ratios"][name] == pytest.approx(expected)
    assert len(written["ratios"]) == 6
    assert "| digits, lenet_300_100" in capsys.readouterr().out


def test_all_contenders_train_on_the_same_batches():
    for config, dataset in epoch.workloads(toy=True).values():
        functions = epoch.contenders(config, dataset)
        params = [[function() for _ in range(2)][-1] for function in functions.values()]
        steps = {int(function.state.train.step) for function in functions.values()}
        assert steps == {2 * dataset.steps_per_epoch(config.batch_size)}
        for other in params[1:]:
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
                params[0],
                other,
            )
