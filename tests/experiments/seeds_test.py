"""Seeds that train together: each is its own run, in files, masks and numbers."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from experiments import seeds, train
from experiments.configs import digits
from experiments.errors import ConfigError, DivergedError, InterruptedRunError
from experiments.records.folder import RunFolder
from experiments.records.metrics import read_metrics
from experiments.records.summary import is_finished, read_summary
from experiments.run.steps import NEVER, Steps
from experiments.train import check_finite, open_run, restore_or_start, train_together
from supjax.ticket_io import load_ticket

SEEDS = (3, 5)
SMALL = "model=lenet_300_100,width=0.1,sparsity=0.7"
"""So few units that activations within rounding of zero are rare."""


def config(seed):
    words = f"{SMALL},epochs=4,cycle_fraction=0.5,cycle_epochs=1,low=0.05,high=0.2,seed={seed}"
    chosen = digits.get_config(words)  # two normal epochs and two cycles of 19 steps each
    chosen.topology.update_every = 4
    chosen.optimizer.update({"learning_rate": 0.5, "milestones": (1,)})
    chosen.runtime.update({"devices": 1, "tensorboard": False, "plots": False})
    return chosen


def members(folder, numbers=SEEDS):
    return [RunFolder(folder / f"seed={seed}", config(seed)) for seed in numbers]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Every seed trained by itself."""
    folder = tmp_path_factory.mktemp("alone")
    for member in members(folder):
        train_together([member])
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The seeds trained together."""
    folder = tmp_path_factory.mktemp("together")
    train_together(members(folder))
    return folder


def names(folder):
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in found if path.parts[0] != "checkpoints"}


def rows(folder):
    """The metrics of a run without its speed."""
    return [
        {k: v for k, v in row.items() if k != "images_per_second"} for row in read_metrics(folder)
    ]


def assert_same_run(folder, other, *, exact):
    """The same files, and in them the same numbers to the last bit or to rounding."""
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 1e-5}
    assert names(folder) == names(other)
    assert (folder / "config.json").read_text() == (other / "config.json").read_text()
    for row, twin in zip(rows(folder), rows(other), strict=True):
        assert row.keys() == twin.keys()
        for key, value in row.items():
            if isinstance(value, str):
                assert value == twin[key]
            else:
                np.testing.assert_allclose(value, twin[key], **tolerance, err_msg=f"{key}: {row}")
    for path in [folder / "result.npz", *sorted((folder / "tickets").iterdir())]:
        ticket, twin = load_ticket(path), load_ticket(other / path.relative_to(folder))
        assert jax.tree.structure(ticket) == jax.tree.structure(twin)
        jax.tree.map(np.testing.assert_array_equal, ticket.masks, twin.masks)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ticket.params, twin.params
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_each_seed_is_its_own_single_run(alone, together, seed):
    name = f"seed={seed}"
    assert_same_run(alone / name, together / name, exact=False)
    one, other = read_summary(alone / name), read_summary(together / name)
    assert one.keys() == other.keys()
    assert (one["seeds_together"], other["seeds_together"]) == (1, len(SEEDS))
    for field in ("config", "plan", "flops", "result", "exploration_rate"):
        assert one[field] == other[field]
    tested = [[n["test"]["accuracy"] for n in s["networks"]] for s in (one, other)]
    np.testing.assert_allclose(*tested, atol=1e-9)
    assert tested[0][-1] > 0.5  # it has learned something that could differ


def test_seeds_differ_from_each_other(together):
    first, second = (load_ticket(together / f"seed={s}" / "result.npz") for s in SEEDS)
    kernels = [ticket.masks["fc1"]["kernel"] for ticket in (first, second)]
    assert (kernels[0] != kernels[1]).any()


@pytest.fixture
def interrupt(monkeypatch):
    """Send the process a SIGTERM at the start of a number of later dispatches."""

    def after(count):
        calls = iter(range(1000))
        plain = Steps.advance

        def advance(self, *args):
            if next(calls) == count:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(self, *args)

        monkeypatch.setattr(Steps, "advance", advance)

    return after


def test_an_interrupted_group_goes_on_to_the_last_bit(together, tmp_path, interrupt):
    interrupt(9)
    with pytest.raises(InterruptedRunError):
        seeds.train_seeds(members(tmp_path))
    assert not any(is_finished(member.path) for member in members(tmp_path))
    seeds.train_seeds(members(tmp_path))
    for seed in SEEDS:
        assert_same_run(together / f"seed={seed}", tmp_path / f"seed={seed}", exact=True)


def test_one_of_an_interrupted_group_goes_on_alone(alone, tmp_path, interrupt, monkeypatch):
    interrupt(9)
    with pytest.raises(InterruptedRunError):
        seeds.train_seeds(members(tmp_path))
    first, second = members(tmp_path)
    train_together([first])
    assert_same_run(alone / first.path.name, first.path, exact=False)
    groups = []
    monkeypatch.setattr(seeds, "train_together", groups.append)
    seeds.train_seeds([first, second])
    assert groups == [[second]]


def test_finished_seeds_are_left_alone(together, monkeypatch):
    monkeypatch.setattr(seeds, "train_together", None)
    seeds.train_seeds(members(together))


def test_seeds_at_different_steps_run_in_groups(tmp_path, monkeypatch):
    for seed, step in ((1, 20), (2, 10), (3, 20)):
        (tmp_path / f"seed={seed}" / "checkpoints" / str(step)).mkdir(parents=True)
    groups = []
    monkeypatch.setattr(seeds, "train_together", groups.append)
    seeds.train_seeds(members(tmp_path, (0, 1, 2, 3, 4)))
    assert [[m.config.seed for m in group] for group in groups] == [[0, 4], [1, 3], [2]]


def test_a_damaged_checkpoint_costs_the_company_only(together, tmp_path, interrupt):
    interrupt(9)
    first, second = members(tmp_path)
    for member in (first, second):
        member.config.runtime.checkpoint_every_steps = 5
    with pytest.raises(InterruptedRunError):
        seeds.train_seeds([first, second])
    newest = max((first.path / "checkpoints").iterdir(), key=lambda path: int(path.name))
    (newest / "state.npz").write_bytes(b"")
    seeds.train_seeds([first, second])
    assert newest.with_name(f"{newest.name}.damaged").exists()
    for member in (first, second):
        assert rows(member.path)[-1]["step"] == rows(together / member.path.name)[-1]["step"]


def test_a_seed_that_diverges_leaves_the_others(together, tmp_path, monkeypatch, capsys):
    plain = train.check_finite

    def check(run, first_bad, state, step):
        if 5 in run.seeds.seeds and step >= 15:
            first_bad = [12 if seed == 5 else NEVER for seed in run.seeds.seeds]
        return plain(run, first_bad, state, step)

    monkeypatch.setattr(train, "check_finite", check)
    with pytest.raises(DivergedError, match="1 of 2 seeds diverged: 5") as caught:
        seeds.train_seeds(members(tmp_path))
    assert caught.value.exit_code == 3
    line = "seed 5: the loss is not finite at step 12, learning rate 0.5; nothing saved\n"
    assert line in capsys.readouterr().err
    assert not is_finished(tmp_path / "seed=5")
    np.testing.assert_allclose(
        [row.get("loss", 0) for row in rows(tmp_path / "seed=3")],
        [row.get("loss", 0) for row in rows(together / "seed=3")],
        rtol=1e-3,
    )


def test_losses_and_weights_are_checked_by_seed(tmp_path):
    with open_run(members(tmp_path), 1) as run:
        state, _ = restore_or_start(run)
        params = jax.tree.map(lambda leaf: leaf.at[1].set(np.nan), state.train.params)
        bad = state._replace(train=state.train._replace(params=params))
        check_finite(run, [NEVER, NEVER], state, 0)
        with pytest.raises(
            DivergedError, match=r"^seed 5: the weights are not finite at step 7"
        ) as one:
            check_finite(run, [NEVER, NEVER], bad, 7)
        assert one.value.seeds == (5,)
        with pytest.raises(
            DivergedError, match=r"^seed 3: the loss is .*step 2.*\nseed 5: "
        ) as both:
            check_finite(run, [2, NEVER], bad, 7)
        assert both.value.seeds == SEEDS


@pytest.mark.parametrize(
    ("words", "devices", "loop"), [("width=0.125", 1, "fused"), (SMALL, 2, "stepwise")]
)
def test_steps_in_a_loop_with_batch_norm_and_on_two_devices(tmp_path, words, devices, loop):
    def stepped(numbers, loop):
        configs = [digits.get_config(f"{words},seed={seed}") for seed in numbers]
        for chosen in configs:
            chosen.runtime.loop = loop
        folders = [RunFolder(tmp_path / f"{c.seed}-{len(numbers)}", c) for c in configs]
        with open_run(folders, devices) as run:
            state, _ = restore_or_start(run)
            state = run.steps.advance(run.steps.place(state), 3)
            state = run.steps.advance(state, 4, drop_fraction=0.5).train
            return run.seeds.split(jax.device_get(state._replace(rng=state.step)))[-1]

    own, single = stepped(SEEDS, loop), stepped(SEEDS[-1:], "stepwise")
    jax.tree.map(np.testing.assert_array_equal, own.topology.masks, single.topology.masks)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        (own.params, own.batch_stats, own.step),
        (single.params, single.batch_stats, single.step),
    )


def test_members_have_their_own_seed_and_folder():
    base = config(0)
    first, second = seeds.make_folders(base, ["3", "5"], "runs/m=set,seed={seed},x")
    assert (first.config.seed, second.config.seed, base.seed) == (3, 5, 0)
    assert str(second.path) == "runs/m=set,seed=5,x"


@pytest.mark.parametrize(
    ("numbers", "workdir", "line"),
    [
        (["0", "1"], "runs/x", r"--workdir must hold \{seed\}, got 'runs/x'"),
        (["0", "a"], "runs/{seed}", "--seeds must be numbers such as 0,1,2, got '0, a'"),
        ([], "runs/{seed}", "--seeds must be numbers"),
        (["0", "1", "0"], "runs/{seed}", "--seeds must differ, got 0, 1, 0"),
    ],
)
def test_what_names_no_runs_is_refused(numbers, workdir, line):
    with pytest.raises(ConfigError, match=line):
        seeds.make_folders(config(0), numbers, workdir)


def test_a_folder_of_another_config_is_refused_before_anything_runs(tmp_path, monkeypatch):
    other = config(5)
    other.epochs = 9
    second = RunFolder(tmp_path / "seed=5", other)
    monkeypatch.setattr(seeds, "train_together", lambda group: None)
    seeds.train_seeds([second])
    monkeypatch.setattr(seeds, "train_together", None)
    with pytest.raises(Exception, match="belongs to another config"):
        seeds.train_seeds(members(tmp_path))


def test_all_files_of_a_seed_name_that_seed(together):
    for seed in SEEDS:
        folder = together / f"seed={seed}"
        assert json.loads((folder / "config.json").read_text())["seed"] == seed
        assert read_summary(folder)["config"]["seed"] == seed
