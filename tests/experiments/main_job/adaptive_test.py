"""Cycles that adapt, in whole runs: what is decided, what acts on it, and a run that is resumed."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.checkpoints.manager import Checkpoints
from experiments.configs.rules import check_config_values
from experiments.errors import ConfigError, InterruptedRunError
from experiments.records.folder import PRETRAINED, RunFolder
from experiments.records.metrics import read_metrics
from experiments.records.summary import read_summary, render_table
from experiments.run.build import build, open_dataset
from experiments.run.cycles import Neighbours
from experiments.run.judging import Judge
from experiments.run.plots import plot_run, with_highs
from experiments.run.plots.time import learning_rate_figure
from experiments.seeds import make_folders, train_seeds
from supjax.adaptive import next_cycle
from supjax.analysis import disagreement
from tests.experiments.main_job.fault_drill import fingerprints
from tests.helpers.tiny_runs import (
    NORMAL_STEPS,
    SMALLER,
    TOTAL_STEPS,
    Compilations,
    run_tiny,
    same_masks,
    tiny_config,
)

ADAPTIVE = {**SMALLER, "sup_tickets.schedule": "adaptive", "sup_tickets.exploration": 0.4}
EVERYTHING = {
    **ADAPTIVE,
    "baselines.ema": 0.9,
    "sup_tickets.select": "guard",
    "sup_tickets.force_select": True,
}
LIMITS = {"target": 0.015, "low": 5e-4, "peak": 0.1, "most": 0.4}
FIRST_TICKET = NORMAL_STEPS + 8

STOPS = {
    "normal phase, amid a line of metrics": 3,
    "before a cycle's first step": NORMAL_STEPS,
    "after a cycle's first step": NORMAL_STEPS + 1,
    "amid a cycle": NORMAL_STEPS + 5,
    "before the last cycle, with what was decided": FIRST_TICKET,
    "amid the last cycle": FIRST_TICKET + 3,
    "before the finish": TOTAL_STEPS,
}


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory):
    """A run with all of it that nobody interrupted: its folder, and what it compiled."""
    workdir = tmp_path_factory.mktemp("adaptive") / "run"
    with Compilations() as compiled:
        run_tiny(workdir, EVERYTHING)
    return RunFolder(workdir), compiled.count


def lines(folder, kind):
    return [row for row in read_metrics(folder.path) if row["kind"] == kind]


def decided(row):
    """What the rules make of a line about a cycle, computed again."""
    loss, previous = 1 + row["change"], 1.0  # the rules read differences
    return next_cycle(
        row["high"],
        row["exploration"],
        disagreement=row["disagreement"],
        loss=loss,
        previous_loss=previous,
        standard_error=row["standard_error"],
        middle_loss=0.0 if row["kept"] else 1e9,
        **LIMITS,
    )


def test_a_run_stopped_in_every_phase_ends_with_the_same_bits(adaptive, stop_at, tmp_path):
    workdir = tmp_path / "run"
    for step in STOPS.values():
        stop_at(step)
        with pytest.raises(InterruptedRunError, match=f"saved at step {step},"):
            run_tiny(workdir, EVERYTHING)
    run_tiny(workdir, EVERYTHING)
    found, expected = fingerprints(workdir), fingerprints(adaptive[0].path)
    assert {"result.npz", "tickets/selected.npz", "tickets/ema.npz"} <= expected.keys()
    assert any("hyperparams_states/learning_rate/high" in name for name in expected)
    assert "leaves/train/topology/extra/exploration" in expected
    assert found == expected


def test_every_cycle_runs_with_what_the_one_before_has_decided(adaptive):
    folder, _ = adaptive
    first, second = lines(folder, "cycle")
    assert (first["high"], second["high"]) == (np.float32(0.1), first["next_high"])
    assert first["exploration"] == np.float32(8 / 300)  # a cycle of 8 steps is short for 0.4
    assert second["exploration"] == first["next_exploration"]
    for row in (first, second):
        cycle = decided(row)
        assert row["next_high"] == pytest.approx(float(cycle.high))
        assert row["next_exploration"] == pytest.approx(float(cycle.exploration))
    middle = {row["step"]: row["learning_rate"] for row in lines(folder, "train")}
    for row in (first, second):
        assert middle[row["step"] - 4] == pytest.approx(row["high"])


def test_the_decided_share_is_what_an_exploration_moves(adaptive):
    folder, _ = adaptive
    networks = [folder.load_ticket(name).masks for name in (PRETRAINED, "ticket_1", "ticket_2")]
    shares = [row["exploration"] for row in lines(folder, "cycle")]
    assert shares[0] != shares[1]
    for before, after, share in zip(networks[:-1], networks[1:], shares, strict=True):
        pairs = list(zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
        gone = np.array([np.sum(a & ~b) for a, b in pairs])  # nothing else moves in a cycle
        most = np.array([np.ceil(share * np.sum(a)) for a, _ in pairs])
        assert (gone <= most).all()  # what is dropped may grow again at once
        assert gone.sum() > 0.6 * most.sum()


def test_steps_compile_once_whatever_is_decided(adaptive):
    assert [adaptive[1][name] for name in ("one_step", "topology_step", "chosen")] == [1, 1, 1]


def test_what_was_seen_is_what_the_tickets_say(adaptive):
    folder, _ = adaptive
    found = read_summary(folder.path)["diagnosis"]
    rows = lines(folder, "cycle")
    for name, key in (("disagreement", "disagreements"), ("change", "changes")):
        np.testing.assert_allclose([row[name] for row in rows], found[key], atol=1e-5)
    np.testing.assert_allclose([row["barrier"] for row in rows], found["barriers"], atol=1e-5)


def test_summary_table_and_pictures_show_the_cycles(adaptive, tmp_path):
    folder, _ = adaptive
    summary = read_summary(folder.path)
    highs = [cycle["high"] for cycle in summary["cycles"]]
    text = " ".join(render_table(summary, terminal=False).split())
    assert f"adapted high {highs[0]:.3g}, {highs[1]:.3g}; exploration 0.0267" in text
    shutil.copytree(folder.path, tmp_path / "run")
    assert {"cycles.png", "learning_rate.png"} <= {p.name for p in plot_run(tmp_path / "run")}


def test_the_picture_of_the_rate_is_of_the_rates_that_ran(adaptive):
    folder, _ = adaptive
    config = tiny_config(EVERYTHING)
    parts = build(config, open_dataset(config))
    highs = [cycle["high"] for cycle in read_summary(folder.path)["cycles"]]
    schedule = with_highs(parts.learning_rate, parts.plan, highs)
    figure = learning_rate_figure([], parts.plan, schedule=schedule)
    drawn = dict(zip(*(np.asarray(x) for x in figure.axes[0].lines[0].get_data()), strict=True))
    for row in lines(folder, "train"):
        assert drawn[row["step"]] == pytest.approx(row["learning_rate"])


def with_barriers(monkeypatch, *numbers):
    """Let barriers stand before these tickets, counted over all seeds."""
    asked = []

    def neighbours(judge, first, second, index):
        asked.append(index)
        middle = 9.0 if len(asked) in numbers else 1.0
        return Neighbours(0.015, 1.0, 1.0, 0.1, middle)

    monkeypatch.setattr(Judge, "neighbours", neighbours)


def test_a_ticket_beyond_a_barrier_is_left_out_and_the_names_say_so(tmp_path, monkeypatch):
    with_barriers(monkeypatch, 1)
    summary = run_tiny(tmp_path, ADAPTIVE)
    folder = RunFolder(tmp_path)
    names = [network["name"] for network in summary["networks"]]
    assert names[2] == "superposed 0-1 without 1"
    assert summary["result"] == names[4] == "superposed 0-2 without 1"
    start, alone = folder.load_ticket(PRETRAINED), folder.load_ticket("superposed_1")
    assert jax.tree.all(jax.tree.map(np.array_equal, start.params, alone.params))
    assert not same_masks(start, folder.load_ticket("superposed_2"))
    assert [cycle["kept"] for cycle in summary["cycles"]] == [0, 1]
    assert [cycle["high"] for cycle in summary["cycles"]] == pytest.approx([0.1, 0.05])


def test_the_first_member_of_all_stays(tmp_path, monkeypatch):
    with_barriers(monkeypatch, 1, 2)
    summary = run_tiny(tmp_path, ADAPTIVE | {"sup_tickets.include_pretrained": False})
    assert [cycle["kept"] for cycle in summary["cycles"]] == [1, 0]
    assert summary["result"] == "superposed 1-2 without 2"


def test_seeds_that_train_together_adapt_each_for_itself(tmp_path, monkeypatch):
    with_barriers(monkeypatch, 1)  # of the first seed
    folders = make_folders(tiny_config(ADAPTIVE), ["0", "1"], f"{tmp_path}/{{seed}}")
    train_seeds(folders)
    rows = [lines(folder, "cycle") for folder in folders]
    assert [[row["kept"] for row in own] for own in rows] == [[0, 1], [1, 1]]
    for own, folder, high in zip(rows, folders, (0.05, 0.1), strict=True):
        assert own[1]["high"] == pytest.approx(high)
        rates = {row["step"]: row["learning_rate"] for row in lines(folder, "train")}
        assert rates[TOTAL_STEPS - 4] == pytest.approx(high)
    names = [read_summary(folder.path)["result"] for folder in folders]
    assert names == ["superposed 0-2 without 1", "superposed 0-2"]
    first = [folder.load_ticket("superposed_1") for folder in folders]
    start = [folder.load_ticket(PRETRAINED) for folder in folders]
    assert [same_masks(*pair) for pair in zip(first, start, strict=True)] == [True, False]


@pytest.mark.parametrize(
    "fields",
    [
        {"runtime.devices": 2, "runtime.loop": "fused"},
        {"method": "snfs", "sup_tickets.continue_from": "superposed", "optimizer.momentum": 0.0},
        {"method": "static", "sup_tickets.explore_fixed_masks": False},
    ],
    ids=lambda fields: ",".join(map(str, fields)),
)
def test_adaptive_cycles_go_with_other_options(fields, tmp_path):
    summary = run_tiny(tmp_path, ADAPTIVE | fields)
    first, second = summary["cycles"]
    assert second["high"] == first["next_high"]
    fixed = "sup_tickets.explore_fixed_masks" in fields
    assert (second["exploration"] == 0) == fixed
    rates = {row["step"]: row["learning_rate"] for row in lines(RunFolder(tmp_path), "train")}
    assert rates[TOTAL_STEPS - 4] == pytest.approx(second["high"])


def test_the_cyclic_phase_alone_adapts_too(adaptive, tmp_path):
    start = {"sup_tickets.start_from": str(adaptive[0].path)}
    summary = run_tiny(tmp_path, ADAPTIVE | start)
    rates = [row["learning_rate"] for row in lines(RunFolder(tmp_path), "train")]
    low, high = 5e-4, summary["cycles"][0]["high"]
    assert rates[:4] == pytest.approx([(low + high) / 2, high, (low + high) / 2, low])
    checkpoint = Checkpoints(tmp_path, primary=False).steps()[-1]
    with np.load(tmp_path / "checkpoints" / str(checkpoint) / "state.npz") as archive:
        manifest = json.loads(archive["manifest"].tobytes())
    assert manifest["step"] == TOTAL_STEPS


def test_training_inputs_serve_where_no_images_are_held_out(tmp_path):
    fields = ADAPTIVE | {"validation_size": 0, "augment": False}
    summary, folder = run_tiny(tmp_path, fields), RunFolder(tmp_path)
    config = tiny_config(fields)
    dataset = open_dataset(config)
    model = build(config, dataset).model

    def logits(name):
        ticket = folder.load_ticket(name)
        images = dataset.normalize(jnp.asarray(dataset.train.images))
        return model.apply({"params": ticket.params}, images, train=False)

    found = float(disagreement(logits("ticket_1"), logits("ticket_2")))
    assert summary["cycles"][1]["disagreement"] == pytest.approx(found, abs=0.02)  # whole batches


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"sup_tickets.target_disagreement": 1.0},
            r"sup_tickets.target_disagreement must be in \(0, 1\), got 1.0",
        ),
        (
            {"sup_tickets.high": 0.0, "sup_tickets.low": 0.0},
            "sup_tickets.high must be above 0 for sup_tickets.schedule 'adaptive', which "
            "multiplies it, got 0.0",
        ),
        (
            {"sup_tickets.target_disagreement": 0.004},
            "sup_tickets.target_disagreement must be at least one of the 200 images that "
            "tickets are compared on, 0.005, got 0.004",
        ),
        (
            {"sup_tickets.target_disagreement": 5e-4, "validation_size": 0},
            "sup_tickets.target_disagreement must be at least one of the 1368 images that .*",
        ),
    ],
)
def test_what_cannot_adapt_is_refused_in_one_line(fields, line):
    config = tiny_config(ADAPTIVE | fields)

    def check():
        check_config_values(config)
        build(config, open_dataset(config))

    with pytest.raises(ConfigError, match=f"^{line}$"):
        check()


def test_a_run_without_cycles_does_not_adapt():
    config = tiny_config(ADAPTIVE | {"sup_tickets.enabled": False})
    assert build(config, open_dataset(config)).adaptation is None
