"""The fields of a run as a config, and as a run has stored them."""

import json

import pytest

from experiments.configs.common import base, restored
from experiments.configs.rules import check_config_values
from experiments.errors import CheckpointError, ConfigError
from experiments.records.folder import RunFolder
from experiments.study.published import published_setup


def stored(config):
    return json.loads(json.dumps(config.to_dict()))


def test_two_configs_share_nothing():
    first, second = base(), base()
    first.topology.initial_sparsity = 0.3
    first.topology.options.rounds = 3
    assert second.topology.initial_sparsity is None
    assert not second.topology.options


def test_a_stored_config_comes_back_as_it_was_but_for_the_devices():
    config = base()
    config.method = "granet"
    config.topology.initial_sparsity = 0.25
    config.topology.options.update_every = 7
    config.optimizer.milestones = (3, 5, 8)
    back = restored(stored(config))
    check_config_values(back)
    config.runtime.devices = 1
    assert back.to_dict() == config.to_dict()


def test_a_config_stored_by_another_version_gets_defaults_and_loses_what_is_no_field():
    old = stored(base())
    old["topology"]["initial_sparsity"] = 0.5
    del old["topology"]["options"], old["sup_tickets"]["options"], old["deterministic"]
    old["gone"] = {"field": 1}
    back = restored(old)
    check_config_values(back)
    assert not back.topology.options
    assert back.topology.initial_sparsity == 0.5
    assert "gone" not in back


@pytest.mark.parametrize(
    "found", [None, 3, "seed", [], {"model": 3}, {"topology": {"options": {"a.b": 1}}}]
)
def test_what_is_no_stored_config_is_told_in_one_line(found):
    with pytest.raises(ConfigError, match="stored config") as told:
        restored(found)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("found", [{"seed": None}, {"seed": {}}, {"optimizer": {"momentum": "x"}}])
def test_stored_values_of_wrong_types_are_found_by_the_rules(found):
    with pytest.raises(ConfigError, match=r"^(seed|optimizer.momentum) must be"):
        check_config_values(restored(found))


def test_options_tie_a_folder_to_them(tmp_path):
    config = base()
    RunFolder(tmp_path, config).tie()
    config.topology.options.update_every = 7
    with pytest.raises(CheckpointError, match=r"options.update_every: nothing .*, 7 given"):
        RunFolder(tmp_path, config).tie()
    RunFolder(tmp_path / "other", config).tie()
    RunFolder(tmp_path / "other", config).tie()
    config.topology.options.update_every = 8
    with pytest.raises(CheckpointError, match=r"topology.options.update_every: 7 .*, 8 given"):
        RunFolder(tmp_path / "other", config).tie()


def test_options_and_an_initial_sparsity_leave_the_published_set_up():
    config = base()
    assert published_setup(config.to_dict())
    config.topology.options.update_every = 7
    assert not published_setup(config.to_dict())
    config = base()
    config.topology.initial_sparsity = 0.9
    assert not published_setup(config.to_dict())
