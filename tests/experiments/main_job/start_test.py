"""The cyclic phase alone, on a network that was trained before; and cycles on a superposition."""

import shutil

import jax
import numpy as np
import optax
import pytest

import supjax
from experiments import train
from experiments.analysis.finished_run import FinishedRun
from experiments.errors import ConfigError, InterruptedRunError, RunError
from experiments.records.folder import PRETRAINED, RunFolder
from experiments.records.metrics import read_metrics
from experiments.records.summary import is_finished, render_table
from experiments.run.build import build, open_dataset
from experiments.seeds import make_folders, train_seeds
from experiments.sweep import parse_grid
from supjax.ticket_io import save_ticket
from tests.experiments.main_job.fault_drill import fingerprints
from tests.helpers.tiny_runs import (
    FILES,
    NORMAL_STEPS,
    SMALLER,
    TOTAL_STEPS,
    run_tiny,
    same_masks,
    tiny_config,
)

START = "sup_tickets.start_from"

FIELDS = {**SMALLER, "optimizer.momentum": 0.0, "baselines.ema": 0.9, "baselines.tail": True}
"""Without momentum a fresh optimizer is that of the normal phase."""


def same_bits(first, second):
    return jax.tree.all(jax.tree.map(np.array_equal, first, second))


def at_density(ticket, density):
    """Another network of the same layers on random masks."""
    masks = supjax.init_masks(jax.random.key(5), ticket.params, density)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda w: rng.normal(size=w.shape).astype(w.dtype) / 9, ticket.params)
    return jax.device_get(supjax.Ticket(supjax.apply_masks(params, masks), masks))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A finished run with both phases, started from nothing."""
    folder = RunFolder(tmp_path_factory.mktemp("base") / "run")
    run_tiny(folder.path, FIELDS)
    return folder


@pytest.fixture(scope="module")
def cycles(base, tmp_path_factory):
    """The cyclic phase again, on the end of its normal phase."""
    folder = RunFolder(tmp_path_factory.mktemp("cycles") / "run")
    return folder, run_tiny(folder.path, FIELDS | {START: str(base.path)})


def test_the_cycles_on_the_end_of_a_run_s_normal_phase_are_that_run_s_own(base, cycles):
    folder, _ = cycles
    for name in (*FILES, "tail"):
        assert same_bits(folder.load_ticket(name), base.load_ticket(name)), name
    steps = [row["step"] for row in read_metrics(folder.path)]
    assert (min(steps), max(steps)) == (NORMAL_STEPS, TOTAL_STEPS)


def test_only_the_extra_steps_are_counted_and_the_table_says_so(base, cycles):
    _, summary = cycles
    block = {"path": str(base.path), "density": 0.2, "extra_steps": 16, "extra_epochs": 2.0}
    assert summary["start_from"] == block
    assert f"{base.path}; 2 epochs extra" in render_table(summary)
    own = summary["flops"]["inference_relative"]
    # RigL's dense gradient once in each of two cycles of 8 steps: (3 f_S 8 + 2 f_S + 1) / 9
    expected = (26 * own + 1) / 27
    assert summary["flops"]["train_relative"] == pytest.approx(expected)


def test_a_started_run_is_analysed_and_scored_without_what_it_started_from(cycles, tmp_path):
    folder, summary = cycles
    copy = RunFolder(shutil.copytree(folder.path, tmp_path / "run"))
    text = copy.summary_file.read_text().replace(summary["start_from"]["path"], "gone")
    copy.summary_file.write_text(text)
    opened = FinishedRun(copy.path, batches=1)
    assert same_bits(opened.superposed, folder.load_ticket(FILES[-1]))
    [accuracy] = opened.stored_scores([opened.tickets[0]])[1]
    assert accuracy == summary["networks"][1]["validation"]["accuracy"]


def test_a_run_without_cycles_gives_its_final_network(tmp_path):
    run_tiny(tmp_path / "base", {**FIELDS, "sup_tickets.enabled": False, "epochs": 1})
    run_tiny(tmp_path / "run", {**FIELDS, "epochs": 3, START: str(tmp_path / "base")})
    first, then = (RunFolder(tmp_path / name).load_ticket(PRETRAINED) for name in ("base", "run"))
    assert same_bits(first, then)


def test_a_started_run_stopped_anywhere_ends_on_the_same_bits_without_the_file(
    base, stop_at, tmp_path
):
    file = tmp_path / "start.npz"
    fields = {
        **SMALLER,
        **{"baselines.ema": 0.9, "baselines.tail": True},
        **{START: str(file), "sup_tickets.continue_from": "superposed"},
    }
    shutil.copy(base.ticket_file(PRETRAINED), file)
    run_tiny(tmp_path / "undisturbed", fields)
    for step in (NORMAL_STEPS + 1, NORMAL_STEPS + 5, NORMAL_STEPS + 8, TOTAL_STEPS):
        stop_at(step)
        with pytest.raises(InterruptedRunError):
            run_tiny(tmp_path / "run", fields)
        file.unlink(missing_ok=True)
    run_tiny(tmp_path / "run", fields)
    assert fingerprints(tmp_path / "run") == fingerprints(tmp_path / "undisturbed")


def test_a_start_that_was_cut_off_before_its_first_checkpoint_begins_again(
    base, cycles, tmp_path, monkeypatch
):
    def full(*arguments):
        raise RunError("disk full")

    copy = tmp_path / "base"
    shutil.copytree(base.path, copy)
    fields = FIELDS | {START: str(copy)}
    with monkeypatch.context() as patch:
        patch.setattr(train, "save", full)
        with pytest.raises(RunError, match="disk full"):
            run_tiny(tmp_path / "run", fields)
    shutil.rmtree(copy)
    run_tiny(tmp_path / "run", fields)
    rows, expected = (read_metrics(folder) for folder in (tmp_path / "run", cycles[0].path))
    assert [(r["step"], r["kind"]) for r in rows] == [(r["step"], r["kind"]) for r in expected]
    for name in FILES:
        again, once = RunFolder(tmp_path / "run").load_ticket(name), cycles[0].load_ticket(name)
        assert same_bits(again, once), name


@pytest.mark.parametrize("method", ["static", "set", "rigl", "snfs", "granet", "gmp", "snip"])
def test_the_density_is_that_of_the_network_and_ramps_are_over(method, base, tmp_path):
    ticket = at_density(base.load_ticket(PRETRAINED), 0.41)
    save_ticket(tmp_path / "other.npz", ticket)
    fields = {"method": method, START: str(tmp_path / "other.npz")}
    config = tiny_config(SMALLER | fields | {"topology.options": {}})
    if method == "granet":
        config.topology.options = {"initial_density": 0.7, "ramp_end": 9}
    parts = build(config, open_dataset(config), [RunFolder(tmp_path / "run", config)])
    kept, size = supjax.count_active(ticket.masks), supjax.count_maskable(ticket.masks)
    for step in (0, NORMAL_STEPS, TOTAL_STEPS):
        assert round(float(parts.topology.density_at(step)) * size) == kept
    pruned = parts.superposition.result(parts.superposition.init(ticket))
    assert same_masks(pruned, ticket)


def test_every_network_of_a_run_keeps_as_many_weights_as_its_start(base, tmp_path):
    ticket = at_density(base.load_ticket(PRETRAINED), 0.413)
    save_ticket(tmp_path / "other.npz", ticket)
    fields = {**SMALLER, "method": "granet", START: str(tmp_path / "other.npz")}
    summary = run_tiny(tmp_path / "run", fields)
    kept = supjax.count_active(ticket.masks)
    folder = RunFolder(tmp_path / "run")
    assert [int(supjax.count_active(folder.load_ticket(n).masks)) for n in FILES] == [kept] * 5
    assert same_bits(folder.load_ticket(PRETRAINED).params, ticket.params)
    assert summary["start_from"]["density"] == kept / supjax.count_maskable(ticket.masks)


def damaged(base, folder):
    """What cannot be started from: a path, further fields, and words of the refusal."""
    ticket = base.load_ticket(PRETRAINED)
    dense = ticket._replace(masks=jax.tree.map(np.ones_like, ticket.masks))
    save_ticket(folder / "dense.npz", dense)
    spoilt = jax.tree.map(lambda w: np.full_like(w, np.nan), ticket.params)
    spoilt = supjax.apply_masks(spoilt, ticket.masks)
    save_ticket(folder / "nan.npz", ticket._replace(params=jax.device_get(spoilt)))
    wide = jax.tree.map(np.float64, ticket.params)
    save_ticket(folder / "double.npz", ticket._replace(params=wide))
    (folder / "text.npz").write_text("no ticket")
    shutil.copytree(base.path, folder / "unfinished")
    (folder / "unfinished" / "summary.json").unlink()
    (folder / "empty").mkdir()
    start = str(base.path)
    return {
        "gone": (folder / "gone.npz", {}, "must be a ticket file or the folder of a run"),
        "no run": (folder / "empty", {}, "must be a ticket file or the folder of a run"),
        "no ticket": (folder / "text.npz", {}, "cannot be used"),
        "unfinished": (folder / "unfinished", {}, "is not finished"),
        "dense": (folder / "dense.npz", {}, "is dense"),
        "not finite": (folder / "nan.npz", {}, "NaN or infinite"),
        "another type": (folder / "double.npz", {}, "float64"),
        "other layers": (start, {"model.width": 0.2}, "does not fit the network"),
        "other network": (start, {"model.name": "digits_cnn"}, "does not fit the network"),
        "no cycles": (start, {"sup_tickets.enabled": False}, "sup_tickets.enabled False"),
        "dense method": (start, {"method": "dense"}, "method 'dense'"),
    }


@pytest.mark.filterwarnings("ignore:.*NaN or infinite")
def test_what_cannot_be_started_from_is_one_line_before_anything_compiles(
    base, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "make_steps", lambda *_: pytest.fail("it goes on"))
    for name, (path, fields, words) in damaged(base, tmp_path).items():
        with pytest.raises(ConfigError) as refused:
            run_tiny(tmp_path / "run", {**SMALLER, **fields, START: str(path)})
        line = str(refused.value)
        assert words in line, (name, line)
        assert START in line, (name, line)
        assert "\n" not in line, (name, line)
    assert not (tmp_path / "run").exists()


def test_seeds_that_train_together_start_from_networks_of_their_own(base, tmp_path):
    own = [at_density(base.load_ticket(PRETRAINED), 0.2) for _ in range(2)]
    own[1] = own[1]._replace(params=jax.tree.map(lambda w: 2 * w, own[1].params))
    for seed, ticket in enumerate(own):
        save_ticket(tmp_path / f"start {seed}.npz", ticket)
    config = tiny_config(FIELDS | {START: f"{tmp_path}/start {{seed}}.npz"})
    folders = make_folders(config, ["0", "1"], f"{tmp_path}/run {{seed}}")
    train_seeds(folders)
    for folder, ticket in zip(folders, own, strict=True):
        assert is_finished(folder.path)
        assert same_bits(folder.load_ticket(PRETRAINED).params, ticket.params)
        assert not same_bits(folder.load_ticket("ema").params, folder.load_ticket("tail").params)
    save_ticket(tmp_path / "start 1.npz", at_density(own[1], 0.3))
    others = make_folders(config, ["0", "1"], f"{tmp_path}/other {{seed}}")
    with pytest.raises(ConfigError, match=f"{START} must keep as many weights for every seed"):
        train_seeds(others)


def test_a_sweep_takes_a_start_for_all_runs_and_not_as_an_axis():
    with pytest.raises(ConfigError, match=r"axis 'start_from' holds paths: .*--config\.sup_tick"):
        parse_grid("start_from=runs/a,runs/b")


@pytest.mark.parametrize("field", ["ticket", "superposed"])
def test_a_cycle_goes_on_from_the_ticket_or_from_the_superposition(
    field, base, tmp_path, monkeypatch
):
    states, save = {}, train.save

    def keeping(run, step, state):
        states[step] = jax.device_get((state.train.ticket, state.train.opt_state, state.averages))
        save(run, step, state)

    monkeypatch.setattr(train, "save", keeping)
    fields = {**SMALLER, "baselines.ema": 0.9, START: str(base.path)}
    run_tiny(tmp_path, fields | {"sup_tickets.continue_from": field, "sup_tickets.high": 0.1})
    folder = RunFolder(tmp_path)
    names = {"ticket": "ticket_1", "superposed": "superposed_1"}
    assert not same_masks(*map(folder.load_ticket, names.values()))
    ticket, opt_state, averages = states[NORMAL_STEPS + 8]
    assert same_bits(ticket, folder.load_ticket(names[field]))
    momentum = optax.tree.get(opt_state, "trace")
    for tree in (momentum, averages["ema"]):
        outside = jax.tree.map(
            lambda w, m: 0 if m is None else np.abs(w[~m]).sum(), tree, ticket.masks
        )
        assert not any(jax.tree.leaves(outside))
        assert all(np.any(leaf) for leaf in jax.tree.leaves(tree))
    last = states[TOTAL_STEPS][0]
    assert same_bits(last, folder.load_ticket("ticket_2"))
