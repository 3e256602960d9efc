"""Every registered method through both phases."""

import math

import jax
import numpy as np
import pytest

import supjax
from experiments.run.build import build, open_dataset
from supjax.ticket_io import load_ticket
from supjax.topologies import METHODS
from tests.helpers.tiny_runs import (
    FILES,
    SMALLER,
    TOTAL_STEPS,
    numbers,
    run_tiny,
    tiny_config,
)

DENSITY = 0.2
SPARSE_GRADIENTS = ("static", "set", "set_itop", "dsr", "mest", "snip", "grasp", "synflow")


@pytest.fixture(scope="module", params=METHODS)
def run(request, tmp_path_factory):
    """Method, folder and summary of a finished run."""
    workdir = tmp_path_factory.mktemp(request.param)
    return request.param, workdir, run_tiny(workdir, {**SMALLER, "method": request.param})


def test_a_run_of_every_method_keeps_its_promises(run):
    method, workdir, summary = run
    check_densities(method, workdir)
    check_summary(summary)
    check_exploration(method, summary)
    check_costs(method, summary)


def check_densities(method, workdir):
    share = 1.0 if method == "dense" else DENSITY
    for name in FILES:
        ticket = load_ticket(workdir / "tickets" / f"{name}.npz")
        size = sum(mask.size for mask in jax.tree.leaves(ticket.masks))
        assert int(supjax.count_active(ticket.masks)) == round(share * size), name
    assert (workdir / "result.npz").read_bytes()


def check_summary(summary):
    assert summary["result"] == "superposed 0-2"
    assert [network["kind"] for network in summary["networks"]] == [
        *("pretrained", "ticket", "superposed", "ticket", "superposed", "ensemble")
    ]
    for network in summary["networks"]:
        for split in ("validation", "test"):
            assert 0 <= network[split]["accuracy"] <= 1
            assert network[split]["loss"] > 0
    assert all(math.isfinite(number) for number in numbers(summary))
    assert summary["wall_seconds"] > 0
    assert summary["images_per_second"] > 0


def check_exploration(method, summary):
    density = summary["networks"][0]["density"]
    if method == "dense":
        assert summary["exploration_rate"] == 1
    else:
        assert density < summary["exploration_rate"] <= 1


def check_costs(method, summary):
    """METHOD section 2, FLOPs per sample, here relative to dense training, 3 f_D."""
    costs = summary["flops"]
    dense, sparse = 1.0, costs["inference_relative"]
    interval = tiny_config().topology.update_every
    if method == "dense":
        expected = dense
    elif method in SPARSE_GRADIENTS:
        expected = sparse
    elif method == "snfs":
        expected = (2 * sparse + dense) / 3
    elif method in ("rigl", "rigl_itop"):
        expected = (3 * sparse * interval + 2 * sparse + dense) / (interval + 1) / 3
    else:
        config = tiny_config({"method": method})
        at = build(config, open_dataset(config)).topology.density_at
        expected = np.mean([at(step) for step in range(TOTAL_STEPS)])
    assert costs["train_relative"] == pytest.approx(expected, rel=0.01)
    assert (sparse == 1) == (method == "dense")
    assert costs["dense_forward"] > 2 * 64 * 30
