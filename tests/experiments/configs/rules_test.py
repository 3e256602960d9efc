"""Configs that cannot be run: the field, its value and what is allowed."""

import pytest

from experiments.configs.rules import check_config_values, check_devices
from experiments.errors import ConfigError
from experiments.run.build import build, open_dataset
from tests.helpers.tiny_runs import tiny_config

REFUSED = [
    ("method", "rgl", "method must be one of dense, dsr, .*synflow; got 'rgl'"),
    ("model.name", "vgg", "model.name must be one of .*vgg16, vgg19, .*; got 'vgg'"),
    ("model.dtype", "float16", "model.dtype must be one of bfloat16, float32; got 'float16'"),
    ("model.width", 0.0, "model.width must be above 0, got 0.0"),
    ("dataset", "", "dataset must be named, such as cifar10, .*"),
    ("sparsity", 1.0, r"sparsity must be in \[0, 1\), got 1.0"),
    ("sparsity", float("nan"), r"sparsity must be in \[0, 1\), got nan"),
    ("batch_size", 0, "batch_size must be an integer of at least 1, got 0"),
    ("logs_per_epoch", 0, "logs_per_epoch must be an integer of at least 1, got 0"),
    ("topology.distribution", "er", "topology.distribution must be one of erk, uniform; got 'er'"),
    ("topology.drop_decay", "linear", "topology.drop_decay must be one of constant, cosine; .*"),
    ("topology.drop_fraction", 1.5, r"topology.drop_fraction must be in \[0, 1\], got 1.5"),
    ("optimizer.learning_rate", -1.0, "optimizer.learning_rate must be at least 0, got -1.0"),
    ("optimizer.decay_factor", 0.0, r"optimizer.decay_factor must be in \(0, 1\], got 0.0"),
    ("sup_tickets.average", "mean", "sup_tickets.average must be one of caa, cia, cima; .*"),
    ("sup_tickets.scope", "all", "sup_tickets.scope must be one of global, layer; got 'all'"),
    ("sup_tickets.batch_stats", "none", "sup_tickets.batch_stats must be one of .*"),
    ("sup_tickets.high", 1e-9, "sup_tickets.low must not exceed sup_tickets.high, got .*"),
    ("sup_tickets.cycle_epochs", 5, "sup_tickets.cycle_epochs must not exceed .* 4 epochs, got 5"),
    ("sup_tickets.cycle_fraction", 1.0, "sup_tickets.cycle_fraction must leave epochs .*got 1.0"),
    ("runtime.loop", "fast", "runtime.loop must be one of auto, fused, stepwise; got 'fast'"),
    ("runtime.checkpoint_every_minutes", -1.0, "runtime.checkpoint_every_minutes must be .*"),
]


@pytest.mark.parametrize(("field", "value", "line"), REFUSED)
def test_impossible_values_are_refused_by_name(field, value, line):
    with pytest.raises(ConfigError, match=f"^{line}$"):
        check_config_values(tiny_config({field: value}))


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


@pytest.mark.parametrize("milestones", [(0.75, 0.5), (3, 2)])
def test_milestones_that_descend_are_refused(milestones):
    config = tiny_config({"optimizer.milestones": milestones, "epochs": 40})
    with pytest.raises(ConfigError, match="ascend"):
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
