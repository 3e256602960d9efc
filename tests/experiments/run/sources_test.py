"""The loop over compiled steps: what is compiled, and that the kind of loop does not matter."""

from tests.helpers.results import assert_same_results
from tests.helpers.tiny_runs import Compilations, run_tiny

STEP_FUNCTIONS = ("one_step", "many_steps", "topology_step")


def test_every_step_function_is_compiled_once_in_a_run(finished):
    assert [finished.compiled[name] for name in STEP_FUNCTIONS] == [1, 0, 1]
    assert finished.compiled["scoring"] == 2  # one network, and the two tickets together
    assert finished.compiled["fold"] == 1


def test_the_fused_loop_gives_what_single_steps_give(finished, tmp_path):
    with Compilations() as compilations:
        run_tiny(tmp_path / "fused", {"runtime.loop": "fused"})
    assert [compilations.count[name] for name in STEP_FUNCTIONS] == [0, 1, 1]
    assert_same_results(finished.workdir, tmp_path / "fused")
