"""The pictures of whole run folders, from a few steps to the paper's length."""

import logging
import math

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.configs import common
from experiments.records.metrics import MetricWriter
from experiments.records.summary import write_summary
from experiments.run.plots import DRAWN, plot_run
from supjax.schedules import CyclePlan
from supjax.ticket_io import save_ticket
from supjax.types import Ticket

TIME = ["learning_rate.png", "accuracy.png"]
MASKS = ["layer_density.png", "mask_overlap.png"]


def layer_names(count):
    blocks = [f"stage{i // 12 + 1}_block{i // 3}/conv{i % 3 + 1}/kernel" for i in range(count - 2)]
    return ["stem/kernel", *blocks, "head/kernel"]


def draw_masks(rng, layers):
    """Masks whose densities fall with the width of the layer, as ERK's do."""
    sizes = [(4 + 2 * i, 30) for i in range(layers)]
    return {
        name: rng.random(size) < min(1.0, 3 / size[0])
        for name, size in zip(layer_names(layers), sizes, strict=True)
    }


def explore(rng, masks, share=0.3):
    """The same masks with a share of their entries drawn again."""
    return {
        name: np.where(rng.random(mask.shape) < share, rng.random(mask.shape) < mask.mean(), mask)
        for name, mask in masks.items()
    }


def save_masks(path, masks):
    path.parent.mkdir(exist_ok=True)
    save_ticket(path, Ticket(jax.tree.map(lambda mask: mask.astype(np.float32), masks), masks))


def learned(step, plan):
    """Accuracy that climbs, jumps when the rate falls and dips where a cycle explores."""
    part = step / plan.normal_steps
    if part < 1:
        return 0.93 - 0.07 * (part < 0.5) - 0.02 * (part < 0.75) - 0.5 * math.exp(-30 * part)
    return 0.93 - 0.01 * (1 - (step - plan.normal_steps) % plan.cycle_steps / plan.cycle_steps)


def make_run(workdir, plan, steps_per_epoch, layers=6, log_every=1, eval_every=1):
    """Writes what a run of this plan leaves in its folder, with made-up figures."""
    rng = np.random.default_rng(0)
    writer = MetricWriter(workdir, resume_step=None, tensorboard=False)
    for step in range(1, plan.total_steps + 1):
        accuracy = learned(step - 1, plan)
        if step % log_every == 0:
            noisy = accuracy + 0.02 + 0.01 * rng.normal()
            writer.write(step, "train", {"learning_rate": 0.1, "accuracy": noisy})
        if step % eval_every == 0:
            writer.write(step, "validation", {"accuracy": accuracy + 0.002 * rng.normal()})
    writer.close()

    def network(name, kind, step, accuracy):
        scores = {"accuracy": accuracy, "loss": 0.3}
        return {"name": name, "kind": kind, "step": step, "density": 0.05, "validation": scores}

    masks, best = draw_masks(rng, layers), learned(plan.total_steps - 1, plan)
    kind = "pretrained" if plan.num_cycles else "final"
    networks = [network("first", kind, plan.normal_steps, best - 0.002)]
    save_masks(workdir / "tickets" / "pretrained.npz", masks)
    for i, step in enumerate(plan.ticket_steps, start=1):
        masks = explore(rng, masks)
        save_masks(workdir / "tickets" / f"ticket_{i}.npz", masks)
        save_masks(workdir / "tickets" / f"superposed_{i}.npz", explore(rng, masks, 0.5))
        networks.append(network(f"ticket {i}", "ticket", step + 1, best + 0.001 * i))
        networks.append(network(f"superposed {i}", "superposed", step + 1, best + 0.002 * i))
    if plan.num_cycles:
        networks.append(network("ensemble", "ensemble", plan.total_steps, best + 0.007))
    phases = {**plan._asdict(), "steps_per_epoch": steps_per_epoch}
    config = common.base().to_dict()
    write_summary(workdir, {"networks": networks, "plan": phases, "config": config})
    return workdir


PLANS = {
    "three short cycles": (CyclePlan(48, 8, 3), 24),
    "one cycle of one step": (CyclePlan(3, 1, 1), 2),
    "cycles for most of the run": (CyclePlan(10, 10, 3), 10),
    "no cycles": (CyclePlan(30, 0, 0), 10),
}


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_is_drawn(tmp_path, caplog, name):
    plan, steps_per_epoch = PLANS[name]
    written = plot_run(make_run(tmp_path, plan, steps_per_epoch))
    expected = TIME + (MASKS if plan.num_cycles else MASKS[:1])
    assert [path.name for path in written] == expected
    assert {path.parent for path in written} == {tmp_path / "plots"}
    assert not caplog.records
    for path in written:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.shape[1] >= 1000
        assert 0.01 < (pixels < 250).mean() < 0.9  # something is drawn, on white


def test_a_run_of_the_papers_length_is_drawn(tmp_path, caplog):
    plan = CyclePlan(226 * 4, 8 * 4, 3)
    assert len(plot_run(make_run(tmp_path, plan, 4, layers=54, eval_every=4))) == 4
    assert not caplog.records


def test_what_cannot_be_drawn_costs_a_warning_and_nothing_else(tmp_path, caplog):
    workdir = make_run(tmp_path, CyclePlan(6, 2, 2), 2)
    (workdir / "tickets" / "ticket_1.npz").write_text("damaged")
    with caplog.at_level(logging.WARNING):
        written = plot_run(workdir)
    assert [path.name for path in written] == [*TIME, MASKS[0]]
    (record,) = caplog.records
    assert "mask_overlap.png is not drawn: CheckpointError: " in record.getMessage()


def test_no_run_at_all_costs_warnings(tmp_path, caplog):
    assert plot_run(tmp_path) == []
    assert len(caplog.records) == len(DRAWN)


def test_a_folder_that_takes_no_pictures_costs_warnings(tmp_path, caplog):
    workdir = make_run(tmp_path, CyclePlan(6, 2, 2), 2)
    (workdir / "plots").write_text("a file in the way")
    assert plot_run(workdir) == []
    assert len(caplog.records) == 4
