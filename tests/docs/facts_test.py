"""What the pages say is true of the code and of the published tables."""

import ast
import inspect
import statistics

import jax
import jax.numpy as jnp
import pytest

import supjax
from experiments.models import create_model
from experiments.run.build import cycle_plan
from experiments.study.published import (
    PUBLISHED_CONFIGS,
    Published,
    published_accuracies,
    published_setup,
)
from experiments.sweep import parse_grid
from supjax.analysis import layer_flops, total_flops
from supjax.topologies import METHODS
from tests.helpers.docs_pages import (
    DOCS,
    ROOT,
    blocks,
    commands,
    config_of,
    flag_values,
    sections,
    table,
)
from tests.helpers.sources import code_lines

HEADINGS = [
    "What it does",
    "When to use it",
    "How to use",
    "Hyper-parameters",
    "Implementation details and differences from the published code",
    "Source",
]
DOCUMENTED = {**METHODS, "superposition": supjax.superpose}
PAPER = (DOCS / "reproducing-the-paper.md").read_text()
CONFIGS = ROOT / "experiments" / "configs"
TRAIN_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "imagenet2012": 1_281_167}
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet2012": 1000}
SET_UPS = {config: set_up for set_up, config in PUBLISHED_CONFIGS.items()}


def test_every_method_has_a_card():
    assert {page.stem for page in (DOCS / "methods").glob("*.md")} == DOCUMENTED.keys()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_card_has_its_sections_and_the_defaults_of_the_code(name):
    card = sections((DOCS / "methods" / f"{name}.md").read_text(), 2)
    assert list(card) == HEADINGS
    title, *rows = table(card["Hyper-parameters"])
    assert title == ["name", "default", "published value"]
    assert all(all(row) and len(row) == 3 for row in rows)
    parameters = inspect.signature(DOCUMENTED[name]).parameters
    named = {row[0].strip("`"): row[1].strip("`") for row in rows}
    assert list(named) == [key for key in parameters if key in named]  # no other, in their order
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty:
            assert named[key] == "required"
        elif key in named:
            assert ast.literal_eval(named[key]) == parameter.default, key
        assert f"  {key}: " in DOCUMENTED[name].__doc__, "what the card leaves to the docstring"


def test_every_config_is_mentioned():
    configs = {file.name for file in CONFIGS.glob("*.py") if "def get_config(" in file.read_text()}
    assert {name for name in configs if f"`{name}`" not in PAPER} == set()


def numbers(text):
    """Return the published numbers of an entry of a table, `92.70 -> 93.20` or `72.9`."""
    if text == "-":
        return None
    base, _, sup = text.partition(" -> ")
    return Published(float(base), float(sup) if sup else None)


def documented_accuracies():
    """Return `(dataset, model, method, sparsity) -> numbers` as they stand on the page."""
    found = {}
    for heading, text in sections(PAPER, 3).items():
        if "`" in heading:
            key = SET_UPS[heading.split("`")[1].removesuffix(".py")]
            dense = text.partition("(`method=dense,sparsity=0,sup=false`): ")[2].split()[0]
            found[*key, "dense", 0.0] = Published(float(dense.rstrip(".")), None)
            title, *rows = table(text)
            for method, *values in rows:
                for percent, value in zip(title[1:], values, strict=True):
                    sparsity = int(percent.removesuffix(" %")) / 100
                    found[*key, method, sparsity] = numbers(value)
    return found


def test_the_tables_are_the_published_ones():
    documented = {k: v for k, v in documented_accuracies().items() if v is not None}
    assert documented == published_accuracies()


def test_the_sweeps_run_every_published_setting_in_the_published_setup():
    runs = set()
    for words in commands(PAPER.partition("## How long")[0]):
        flags = flag_values(words)
        if "grid" in flags:
            for run in parse_grid(flags["grid"]):
                config = config_of(flags["config"], run.name).to_dict()
                assert published_setup(config), run
                key = (config["dataset"], config["model"]["name"])
                choice = (config["method"], config["sparsity"], config["sup_tickets"]["enabled"])
                runs.add((*key, *choice))
    expected = {(*key, False) for key in published_accuracies()}
    expected |= {(*key, True) for key, known in published_accuracies().items() if known.sup_tickets}
    assert runs == expected


def test_the_arithmetic_of_the_configs():
    rows = table(sections(PAPER, 2)["How long"])[1:]
    assert {row[0].strip("`") for row in rows} == set(SET_UPS)
    for row in rows:
        assert row == arithmetic(row[0].strip("`"))


def arithmetic(name):
    """Return the row of a config: steps and operations."""
    config = config_of(f"experiments/configs/{name}.py")
    steps_per_epoch = (TRAIN_IMAGES[config.dataset] - config.validation_size) // config.batch_size
    plan = cycle_plan(config, steps_per_epoch)
    side = 224 if config.dataset == "imagenet2012" else 32
    model = create_model(config.model.name, CLASSES[config.dataset])
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    layers = layer_flops(lambda v, x: model.apply(v, x, train=False), variables, image)
    dense = total_flops(layers)
    shares = [
        total_flops(layers, {"params": supjax.erk(variables["params"], density)}) / dense
        for density in (0.05, 0.1, 0.2)
    ]
    return [
        f"`{name}`",
        f"{steps_per_epoch:,}",
        f"{plan.total_steps:,}",
        f"{plan.normal_steps:,} + {plan.num_cycles} x {plan.cycle_steps:,}",
        f"{dense / 1e6:,.1f}",
        " / ".join(f"{share:.3f}" for share in shares),
        f"{3 * dense * plan.total_steps * config.batch_size / 1e15:,.1f}",
    ]


def test_what_is_said_about_the_published_tables():
    known = published_accuracies()
    both = [found for found in known.values() if found.sup_tickets]
    assert (sum(found.sup_tickets > found.base for found in both), len(both)) == (67, 70)
    assert min(found.sup_tickets - found.base for found in both) == pytest.approx(-0.1)
    places = {(d, m, s) for d, m, method, s in known if method == "granet" and "cifar" in d}
    bases = [
        [known[d, m, method, s].base for method in ("set", "rigl", "granet")] for d, m, s in places
    ]
    assert len(bases) == 18
    assert sum(granet > max(rest) for *rest, granet in bases) == 17
    assert sum(rigl > set_ for set_, rigl, _ in bases) == 13
    gains = {"cifar10": [], "cifar100": []}
    for dataset, means in gains.items():
        for sparsity in (0.95, 0.9, 0.8):
            group = [
                found.sup_tickets - found.base
                for (d, _, method, s), found in known.items()
                if (d, s) == (dataset, sparsity) and method in ("set", "rigl", "granet")
            ]
            means.append(round(statistics.mean(group), 2))
    assert (min(gains["cifar10"]), max(gains["cifar10"])) == (0.14, 0.19)
    assert (min(gains["cifar100"]), max(gains["cifar100"])) == (0.31, 0.5)


def test_the_examples_of_extending_have_the_lines_that_its_table_says():
    text = (DOCS / "extending.md").read_text()
    title, *rows = table(text)
    parts = sections(text, 2)
    assert [row[0].split("](")[0].strip("[") for row in rows] == [name.lower() for name in parts]
    for row, part in zip(rows, parts.values(), strict=True):
        files = [block.code for block in blocks(part) if block.code.startswith("# ")]
        assert sum(map(code_lines, files)) == int(row[title.index("lines there")]), row
