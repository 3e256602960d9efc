"""Every ablation of docs/ablations.md builds, and its learning rate is what the page says."""

import functools

import pytest

from experiments.configs import cifar100_resnet50, digits
from experiments.configs.rules import check_config_values
from experiments.run.build import build, cycle_plan, open_dataset
from experiments.sweep import parse_grid
from tests.helpers.docs_pages import DOCS, commands, config_of, flag_values

GRIDS = [
    flags["grid"]
    for words in commands((DOCS / "ablations.md").read_text())
    if "grid" in (flags := flag_values(words))
]
RUNS = [run.without_seed.name for grid in GRIDS for run in parse_grid(grid)]


@functools.cache
def parts_of(words):
    config = config_of("experiments/configs/digits.py", words)
    check_config_values(config)
    return build(config, dataset())


@functools.cache
def dataset():
    return open_dataset(digits.get_config())


def rates(words, steps):
    schedule = parts_of(words).learning_rate
    return [pytest.approx(float(schedule(step)), rel=1e-9) for step in steps]


@pytest.mark.parametrize("words", sorted(set(RUNS)))
def test_every_run_builds(words):
    plan = parts_of(words).plan
    steps_per_epoch = parts_of(words).steps_per_epoch
    assert plan.total_steps == 40 * steps_per_epoch  # the budget is the same whatever varies
    assert (plan.num_cycles == 0) == ("sup=false" in words)


def test_all_words_of_the_page_are_varied():
    varied = {name for words in RUNS for name, _, _ in (w.partition("=") for w in words.split(","))}
    assert varied == {
        "sup",
        "average",
        "cycle_epochs",
        "cycle_fraction",
        "include_pretrained",
        "exploration",
        "batch_stats",
        "scope",
        "schedule",
        "high",
    }


LOW, HIGH = 5e-4, 0.1


@pytest.mark.parametrize(
    ("words", "first", "middle", "last"),
    [
        ("schedule=triangular", LOW + (HIGH - LOW) * 2 / 76, HIGH, LOW),
        ("schedule=sawtooth", HIGH - (HIGH - LOW) / 76, (LOW + HIGH) / 2, LOW),
        ("schedule=constant", HIGH, HIGH, HIGH),
        ("schedule=sawtooth,high=0.1", HIGH - (HIGH - LOW) / 76, (LOW + HIGH) / 2, LOW),
    ],
)
def test_rates_at_the_bounds_of_every_cycle(words, first, middle, last):
    plan = parts_of(words).plan
    assert (plan.cycle_steps, plan.num_cycles) == (4 * 19, 3)
    assert rates(words, [plan.normal_steps - 1]) == [LOW]  # 0.05, divided by 10 twice
    for start, end in zip(plan.exploration_steps, plan.ticket_steps, strict=True):
        assert rates(words, [start, start + 37, end]) == [first, middle, last]


LENGTHS = {f"cycle_epochs={length}": 12 // length for length in (2, 3, 4, 6, 12)}
SHARES = {
    f"cycle_epochs=4,cycle_fraction={share}": tickets
    for share, tickets in zip((0.1, 0.2, 0.3, 0.4, 0.7), (1, 2, 3, 4, 7), strict=True)
}


@pytest.mark.parametrize(("words", "tickets"), [*LENGTHS.items(), *SHARES.items()])
def test_numbers_of_tickets(words, tickets):
    assert words in RUNS
    assert parts_of(words).plan.num_cycles == tickets


@pytest.mark.parametrize(("fraction", "tickets"), [(0.064, 2), (0.1, 3), (0.128, 4), (0.224, 7)])
def test_numbers_of_tickets_in_the_paper(fraction, tickets):
    config = cifar100_resnet50.get_config(f"cycle_epochs=8,cycle_fraction={fraction}")
    assert cycle_plan(config, steps_per_epoch=351).num_cycles == tickets
