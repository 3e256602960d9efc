import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks import floor
from experiments.models import create_model


def test_results_of_products_are_counted_inside_calls_too():
    inner = jax.jit(lambda x, w: x @ w)

    def function(x, w):
        return jnp.tanh(inner(x, w)) @ w.T

    program = jax.make_jaxpr(function)(jnp.ones((2, 3)), jnp.ones((3, 4)))
    assert floor.product_results(program.jaxpr) == 2 * 4 + 2 * 3


def test_work_of_a_step_by_hand():
    weights = 8 * 8 * 3 * 30 + 30 + 30 * 10 + 10 + 10 * 10 + 10  # LeNet-300-100 at a tenth
    model = create_model("lenet_300_100", 10, width=0.1)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)), train=False)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == weights
    work = floor.training_step("lenet_300_100", 10, 8, 5, 0.1)
    assert work.operations == 3 * 5 * 2 * (8 * 8 * 3 * 30 + 30 * 10 + 10 * 10)
    assert work.bytes == 4 * 5 * 5 * (30 + 10 + 10) + weights * (4 * 8 + 1)


def test_floor_benchmark_prints_and_writes(tmp_path, capsys):
    output = tmp_path / "floor.json"
    floor.main(["--toy", "--output", str(output)])
    written = json.loads(output.read_text())
    assert list(written["floors"]) == list(floor.works(toy=True))
    rate = written["ceilings"]["copy"]["rate"]
    for line in written["floors"].values():
        assert line["memory_seconds"] == pytest.approx(line["bytes"] / rate)
    assert "| superpose 4 tickets" in capsys.readouterr().out
