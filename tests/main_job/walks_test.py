"""The loop over compiled steps: what is compiled, and that the kind of loop does not matter."""

import jax
import numpy as np
import pytest
from tiny_runs import FILES, Compilations, run_tiny, same_masks

from experiments.metrics import read_metrics
from supjax.ticket_io import load_ticket

STEP_FUNCTIONS = ("one", "many", "moving")


def test_every_step_function_is_compiled_once_in_a_run(finished):
    assert [finished.compiled[name] for name in STEP_FUNCTIONS] == [1, 0, 1]
    assert finished.compiled["scoring"] == 2  # one network, and the two tickets together
    assert finished.compiled["superpose_step"] == 1


def test_the_fused_loop_gives_what_single_steps_give(finished, tmp_path):
    with Compilations() as compilations:
        run_tiny(tmp_path / "fused", {"runtime.loop": "fused"})
    assert [compilations.count[name] for name in STEP_FUNCTIONS] == [0, 1, 1]
    for name in FILES:
        stepwise, fused = (
            load_ticket(folder / "tickets" / f"{name}.npz")
            for folder in (finished.workdir, tmp_path / "fused")
        )
        assert same_masks(stepwise, fused)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            (stepwise.params, stepwise.batch_stats),
            (fused.params, fused.batch_stats),
        )
    rows = [read_metrics(folder) for folder in (finished.workdir, tmp_path / "fused")]
    for first, second in zip(*rows, strict=True):
        assert first.keys() == second.keys()
        assert (first["step"], first["kind"]) == (second["step"], second["kind"])
        if first["kind"] == "train":
            assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
