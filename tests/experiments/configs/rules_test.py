"""Configs that cannot be run: the field, its value and what is allowed."""

import math
import random
from typing import Optional

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.command_line import CONFIGS, load_config
from experiments.configs.common import base
from experiments.configs.fields import FIELDS
from experiments.configs.rules import (
    RELATIONS,
    check_config_values,
    check_devices,
    check_options,
    describe_fields,
)
from experiments.errors import ConfigError
from experiments.run.build import build, open_dataset
from supjax.topologies import METHODS
from tests.helpers.tiny_runs import tiny_config

REFUSED = [
    ("seed", 2**32, r"seed must be an integer in \[0, 4294967295\], got 4294967296"),
    ("method", "rgl", "method must be one of dense, dsr, .*synflow.*; got 'rgl'"),
    ("model.name", "vgg", "model.name must be one of .*vgg16, vgg19, .*; got 'vgg'"),
    ("model.dtype", "float16", "model.dtype must be one of bfloat16, float32; got 'float16'"),
    ("model.width", 0.0, r"model.width must be in \(0, 100\], got 0.0"),
    ("dataset", "", "dataset must be named, such as cifar10, .*, got ''"),
    ("sparsity", 1.0, r"sparsity must be in \[0, 1\), got 1.0"),
    ("sparsity", float("nan"), r"sparsity must be in \[0, 1\), got nan"),
    ("sparsity", 1 - 1e-11, r"sparsity must leave a weight of .*, of 2\*\*31, got 0.99999999999"),
    ("batch_size", 0, r"batch_size must be an integer in \[1, 1000000\], got 0"),
    ("logs_per_epoch", 0, r"logs_per_epoch must be an integer in \[1, 1000000\], got 0"),
    ("topology.distribution", "er", "topology.distribution must be one of erk, uniform; got 'er'"),
    ("topology.drop_decay", "linear", "topology.drop_decay must be one of constant, cosine; .*"),
    ("topology.drop_fraction", 1.5, r"topology.drop_fraction must be in \[0, 1\], got 1.5"),
    (
        "topology.initial_sparsity",
        1.0,
        r"topology.initial_sparsity must be in \[0, 1\) or None, .*",
    ),
    ("optimizer.learning_rate", -1.0, r"optimizer.learning_rate must be in \[0, 1e38\], got -1.0"),
    ("optimizer.momentum", 5.0, r"optimizer.momentum must be in \[0, 1\), got 5.0"),
    ("optimizer.decay_factor", 0.0, r"optimizer.decay_factor must be in \(0, 1\], got 0.0"),
    ("optimizer.warmup_epochs", 5, "optimizer.warmup_epochs must not exceed .* 4 epochs, got 5"),
    ("sup_tickets.average", "mean", "sup_tickets.average must be one of caa, cia, cima.*"),
    ("sup_tickets.scope", "all", "sup_tickets.scope must be one of global, layer; got 'all'"),
    ("sup_tickets.batch_stats", "none", "sup_tickets.batch_stats must be one of .*"),
    ("sup_tickets.high", 1e-9, "sup_tickets.low must not exceed sup_tickets.high 1e-09, got .*"),
    ("sup_tickets.cycle_epochs", 5, "sup_tickets.cycle_epochs must not exceed .* 4 epochs, got 5"),
    ("sup_tickets.cycle_fraction", 1.0, "sup_tickets.cycle_fraction must leave epochs .*got 1.0"),
    ("sup_tickets.cycle_fraction", 0.0, "sup_tickets.cycle_fraction must leave room .*got 0.0"),
    (
        "sup_tickets.cycle_epochs",
        3,
        "sup_tickets.cycle_fraction must leave room for a cycle, of sup_tickets.cycle_epochs 3, "
        r"in epochs 4: give a larger share, more epochs, shorter cycles \(0: as they fit\), or "
        "sup=false, got 0.5",
    ),
    ("runtime.loop", "fast", "runtime.loop must be one of auto, fused, stepwise; got 'fast'"),
    ("runtime.data_dir", "a\nb", "runtime.data_dir must be a folder of this machine, .*"),
    ("runtime.checkpoint_every_minutes", -1.0, "runtime.checkpoint_every_minutes must be .*"),
]


@pytest.mark.parametrize(("field", "value", "line"), REFUSED)
def test_impossible_values_are_refused_by_name(field, value, line):
    with pytest.raises(ConfigError, match=f"^{line}$"):
        check_config_values(tiny_config({field: value}))


SHARED = {"__init__.py", "cifar.py", "common.py", "fields.py", "rules.py"}
DEFAULTS = {field.name: field.default for field in FIELDS}


def config_with(fields):
    """The default config with some fields of any types at all; None among the fields removes."""
    config = ConfigDict(type_safe=False)
    for name, value in (DEFAULTS | fields).items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict(type_safe=False)
        (config[section] if section else config)[key] = value
    return config


def refusal(config):
    """The message of the error, None if there is none; any other error passes through."""
    try:
        check_config_values(config)
    except ConfigError as error:
        return str(error)
    return None


COUNTS = [name for name, value in DEFAULTS.items() if type(value) is int]
NUMBERS = [name for name, value in DEFAULTS.items() if type(value) is float]
TUPLES = [name for name, value in DEFAULTS.items() if type(value) is tuple]
TRUTHS = [name for name, value in DEFAULTS.items() if type(value) is bool]
TEXTS = [name for name, value in DEFAULTS.items() if type(value) is str]
NOT_NUMBERS = [True, "1", None, (1,), {}, 1j, b"1", math.nan, math.inf, -math.inf, 10**5000, -1]


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (COUNTS, [*NOT_NUMBERS, 0.5, 3.0, 2**32, 2**63, 1e300]),
        (NUMBERS, [*NOT_NUMBERS, 2**400, 1e300]),
        (TUPLES, [1, "(0, 1)", None, (0, math.nan), (0, (1,)), (1, 2, True), (-1, 1), ("0", "1")]),
        (TUPLES, [(0.5, 30), (0.3, 0.3j), [[0], [1]], tuple(range(2000)), (2**31, 2**32), {0: 1}]),
        (TRUTHS, [0, 1, "True", None, ()]),
        (TEXTS, [0, True, None, ("rigl",), ["cia"], b"cia", "two\nlines", {}]),
    ],
)
def test_every_field_refuses_what_is_not_of_its_kind_or_beyond_its_bounds(names, values):
    for name in names:
        for value in values:
            line = refusal(config_with({name: value}))
            assert line is not None, (name, value)
            assert line.startswith(f"{name} must "), (name, value)
            assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("seed", [0, 2**31, 2**32 - 1], [-1, 2**32]),
        ("model.width", [1e-3, 100], [0, 100.5]),
        ("sparsity", [0, 0.5, 1 - 2**-31], [1, -0.1]),
        ("optimizer.momentum", [0, 0.999], [1, 1.0]),
        ("optimizer.decay_factor", [1e-9, 1], [0, 1.001]),
        ("sup_tickets.exploration", [0, 1], [-1e-9, 1.001]),
        ("topology.initial_sparsity", [None, 0, 0.99], [1.0, -0.5, True, "0.5", math.nan]),
        (
            "optimizer.milestones",
            [(), (0.5,), (0, 0.9), (1, 2), (30.0, 60), [0.2, 0.4]],
            [(0.5, 0.5), (2, 1), (0.9, 0.1), (0.5, 30), (1.5, 2), (1, 2**31)],
        ),
        ("topology.ramp_epochs", [(0, 1), [5, 10]], [(), (0,), (0, 1, 2), (0.0, 1), (-1, 1)]),
        ("topology.update_every", [1, 2**31 - 1], [0, 2**31]),
        ("runtime.dispatch_seconds", [0, 0.1, 3600], [3601, -0.1]),
    ],
)
def test_bounds_have_two_ends(field, good, bad):
    for value in good:
        assert refusal(config_with({field: value})) is None, value
    for value in bad:
        assert refusal(config_with({field: value})).startswith(f"{field} must "), value


def some_value(random_):
    """Anything: bounds and what lies beside them, and what no field should be."""
    wild = [None, True, False, "", "x", "0.5", "rigl", "two\nlines", b"", 1j, set(), object(), len]
    wild += [(), (0,), (1, 2), (0.5, 0.75), ((1,), 2), [3, 1], {}, {"a": 1}, {"density": 0.1}]
    wild += [np.float64(0.5), np.int64(3), np.ones(3), math.nan, math.inf, -math.inf, "é" * 5000]
    bound = random_.choice([0, 1, 100, 3600, 65_536, 10**6, 2**31, 2**32, 2**63, 10**38, 10**5000])
    near = random_.choice([-1, 1]) * bound + random_.choice([-1, 0, 1])
    chosen = [random_.choice(wild), near, random_.uniform(-2, 2), random_.randrange(400)]
    chosen += [tuple(random_.uniform(-1, 2) for _ in range(random_.randrange(4)))]
    chosen += [tuple(random_.randrange(-1, 300) for _ in range(random_.randrange(4)))]
    chosen += [{random_.choice(["rounds", "update_every", "x\ny"]): random_.choice(wild)}]
    return random_.choice(chosen)


def test_two_thousand_random_values_pass_or_are_told_in_one_line_that_names_the_field():
    random_ = random.Random(14)
    passed = refused = 0
    for _ in range(2_000):
        name = random_.choice(sorted(DEFAULTS))
        value = some_value(random_)
        host = {"method": random_.choice(sorted(METHODS))}
        line = refusal(config_with(host | {name: value}))
        if line is None:
            passed += 1
        else:
            refused += 1
            assert name in line
            assert line.isprintable()
            assert len(line) < 500
    assert passed > 150
    assert refused > 1_000


def test_several_random_fields_at_once_meet_the_relations():
    random_ = random.Random(41)
    good = {
        "method": sorted(METHODS),
        "epochs": [1, 2, 10, 250],
        "sparsity": [0.0, 0.3, 0.9, 1 - 1e-12],
        "optimizer.warmup_epochs": [0, 3],
        "topology.ramp_epochs": [(0, 1), (0, 110), (5, 5), (9, 2)],
        "topology.initial_sparsity": [None, 0.0, 0.6],
        "topology.options": [{}, {"initial_density": 0.2}, {"ramp_end": 7}, {"update_every": 3}],
        "sup_tickets.enabled": [True, False],
        "sup_tickets.cycle_fraction": [0.0, 0.5, 1.0],
        "sup_tickets.cycle_epochs": [1, 8],
        "sup_tickets.low": [0.0, 0.1],
        "sup_tickets.high": [0.0, 0.2, 0.2, 0.05],
        "sup_tickets.schedule": ["triangular", "adaptive"],
        "sup_tickets.select": ["none", "none", "guard"],
        "validation_size": [200, 600],
        "sup_tickets.start_from": ["", "", "runs/a"],
    }
    met = set()
    for _ in range(2_000):
        line = refusal(config_with({name: random_.choice(good[name]) for name in good}))
        met.add(line and line.split(" must ")[0])
    named = {name for name in met if name and not name.startswith("unknown option ")}
    assert None in met
    assert named == {relation.field for relation in RELATIONS}


@pytest.mark.parametrize("file", sorted({path.name for path in CONFIGS.glob("*.py")} - SHARED))
def test_every_config_file_and_its_smoke_run_pass_with_every_method(file):
    for method in METHODS:
        for word in ("", ",runlocal", ",sup=false"):
            config = load_config(f"{CONFIGS / file}:method={method}{word}")
            assert refusal(config) is None, (method, word)


def test_the_table_and_the_config_name_the_same_fields():
    flat = {
        path: value
        for section, group in base().to_dict().items()
        for path, value in (
            ((f"{section}.{name}", value) for name, value in group.items())
            if isinstance(group, dict)
            else [(section, group)]
        )
    }
    assert flat == DEFAULTS
    assert refusal(base()) is None


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_a_config_without_one_of_the_fields_is_refused(field):
    config = base()
    section, _, key = field.name.rpartition(".")
    del (config[section] if section else config)[key]
    assert refusal(config).startswith(f"the config has no field {field.name}, such as ")


def test_a_misspelt_field_of_a_config_file_is_refused():
    config = base()
    config.optimizer.momentun = 0.8
    expected = "unknown field optimizer.momentun; known: learning_rate, momentum, weight_decay, "
    assert refusal(config).startswith(expected)
    config = base()
    config.epcohs = 3
    assert refusal(config).startswith("unknown field epcohs; known: seed, dataset, ")


def test_a_group_that_is_none_and_a_config_that_is_none_are_refused():
    config = config_with({})
    config.model = 3
    expected = "model must hold name, width, dtype, sync_batch_norm; got 3"
    assert refusal(config) == expected
    assert refusal({"seed": 1}).startswith("the config must be a ConfigDict, got ")


def test_the_table_is_told_field_by_field():
    lines = describe_fields().splitlines()
    assert len(lines) == 1 + len(FIELDS) + 1 + len(RELATIONS)
    for field, line in zip(FIELDS, lines[1:], strict=False):
        parts = [field.name, repr(field.default), field.rule.allowed, field.comment]
        assert " ".join(line.split()) == " ".join(" ".join(parts).split())
    assert not any("{" in line for line in lines[-len(RELATIONS) :])


OPTIONS_REFUSED = [
    (
        "mest",
        {"gradient": 1},
        "unknown option topology.options.gradient; known: gradient_weight, .*",
    ),
    ("mest", {"gradient_weight": "much"}, ".*gradient_weight must be float, got 'much'"),
    ("mest", {"gradient_weight": True}, ".*gradient_weight must be float, got True"),
    ("rigl", {"density": 0.1}, "unknown option topology.options.density; known: drop_fraction, .*"),
    ("rigl", {"filter_fn": None}, "unknown option topology.options.filter_fn; known: .*"),
    ("rigl", {"update_every": 2.5}, ".*update_every must be int, got 2.5"),
    ("rigl", {"stop": "never"}, ".*stop must be int or None, got 'never'"),
    ("rigl", {"drop_fraction": "all"}, ".*drop_fraction must be float, got 'all'"),
    ("dense", {"rounds": 3}, "unknown option topology.options.rounds; known: none"),
    ("synflow", {"rounds": 2**31}, "topology.options must be names with plain values: .*"),
    ("synflow", {"rounds": math.nan}, "topology.options must be names with plain values: .*"),
    ("synflow", {"rounds": {"a": 1}}, "topology.options must be names with plain values: .*"),
]


@pytest.mark.parametrize(("method", "options", "line"), OPTIONS_REFUSED)
def test_options_are_checked_against_the_signature_of_the_factory(method, options, line):
    config = tiny_config({"method": method})
    with config.unlocked():
        config.topology.options = options
    with pytest.raises(ConfigError, match=f"^{line}$"):
        check_config_values(config)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("mest", {"gradient_weight": 1, "update_every": 7, "stop": None}),
        ("snfs", {"momentum": 0.5, "drop_fraction": 0.1}),
        ("dsr", {"tolerance": 0.2}),
        ("synflow", {"rounds": 3}),
        ("granet", {"ramp_start": 3, "ramp_end": 9, "initial_density": 1.0}),
    ],
)
def test_options_reach_what_only_one_method_has(method, options):
    config = tiny_config({"method": method})
    with config.unlocked():
        config.topology.options = options
    check_config_values(config)


def test_options_of_any_factory_are_checked_alike():
    def factory(
        density,
        *,
        beta: float | None = 0.5,
        gamma: Optional[int] = None,  # noqa: UP045 - as older code says it
        name="a",
        sizes: tuple[int, ...] = (),
        **rest,
    ):
        return density, beta, gamma, name, sizes, rest

    check_options("sup_tickets.options", {"beta": None, "name": 3, "sizes": (1, 2)}, factory)
    with pytest.raises(ConfigError, match=r"sup_tickets.options.beta must be float or None, got"):
        check_options("sup_tickets.options", {"beta": "x"}, factory)
    with pytest.raises(ConfigError, match=r"sup_tickets.options.gamma must be int or None, got"):
        check_options("sup_tickets.options", {"gamma": 0.5}, factory)
    with pytest.raises(ConfigError, match=r"options.rest; known: beta, gamma, name, sizes$"):
        check_options("sup_tickets.options", {"rest": 1}, factory)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"topology.ramp_epochs": (2, 2)}, r"topology.ramp_epochs must ascend .*got \(2, 2\)"),
        ({"topology.ramp_epochs": (0, 9)}, r"topology.ramp_epochs must ascend .*got \(0, 9\)"),
        ({"sparsity": 0.3}, "topology.initial_sparsity must not exceed sparsity 0.3, got 0.5"),
    ],
)
def test_impossible_ramps_are_refused_for_methods_with_a_ramp_only(fields, line):
    with pytest.raises(ConfigError, match=f"^{line}$"):
        check_config_values(tiny_config({"method": "granet", **fields}))
    check_config_values(tiny_config({"method": "rigl", **fields}))


def test_the_initial_sparsity_is_the_methods_own_the_fields_or_the_options():
    ramps = {"sparsity": 0.3, "topology.ramp_epochs": (0, 1)}
    assert refusal(config_with(ramps | {"method": "gmp"})) is None  # starts dense
    own = ramps | {"method": "granet"}
    assert refusal(config_with(own)).endswith("sparsity 0.3, got 0.5")
    own["topology.initial_sparsity"] = 0.25
    assert refusal(config_with(own)) is None
    own["topology.options"] = {"initial_density": 0.6}
    assert refusal(config_with(own)).endswith("sparsity 0.3, got 0.4")


def test_a_ramp_that_the_options_give_in_steps_does_not_ask_for_epochs():
    fields = {"method": "gmp", "topology.ramp_epochs": (0, 900)}
    assert "topology.ramp_epochs must ascend" in refusal(config_with(fields))
    assert refusal(config_with({**fields, "topology.options": {"ramp_end": 50}})) is None


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("gmp", {"topology.ramp_epochs": (0, 3)}),  # the normal phase has 2 epochs
        ("granet", {"topology.update_every": 100}),
    ],
)
def test_a_ramp_that_the_normal_phase_cuts_off_is_refused(method, fields):
    config = tiny_config({"method": method, **fields})
    check_config_values(config)
    with pytest.raises(ConfigError, match="must let the ramp end within the normal phase of 16"):
        build(config, open_dataset(config))


def test_the_batch_divides_by_all_devices_of_all_processes():
    assert check_devices(tiny_config({"runtime.devices": 0}), 2, 4) == 4
    with pytest.raises(ConfigError, match=r"divide by the 6 device\(s\) in use, got 152"):
        check_devices(tiny_config({"runtime.devices": 0}), 2, 3)
    with pytest.raises(ConfigError, match=r"runtime.devices is 8, but this process has 4"):
        check_devices(tiny_config({"runtime.devices": 8}), 1, 4)
    with pytest.raises(
        ConfigError, match=r"runtime.devices must be 0, all, for 2 processes, got 1"
    ):
        check_devices(tiny_config(), 2, 4)
