"""What a config and a data set do not allow together."""

import pytest

from experiments.errors import ConfigError
from experiments.run.build import build, check_sparsity, check_steps, open_dataset
from tests.helpers.tiny_runs import tiny_config


def test_a_sparsity_that_leaves_no_weight_of_a_network_is_refused():
    config = tiny_config({"sparsity": 0.999})
    check_sparsity(config, 500)  # half a weight is one
    with pytest.raises(ConfigError, match=r"sparsity must leave a weight of .* 499, got 0.999"):
        check_sparsity(config, 499)
    check_sparsity(tiny_config({"method": "dense", "sparsity": 0.999}), 1)


def test_a_run_of_more_steps_than_an_int32_counts_is_refused():
    config = tiny_config({"epochs": 1000})
    check_steps(config, 2**31 // 1000)
    with pytest.raises(ConfigError, match="epochs must be at most 999 at 2147484 steps each"):
        check_steps(config, 2**31 // 1000 + 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sparsity": 0.99999}, "sparsity must leave a weight of the network's"),
        ({"epochs": 2**31 - 1}, "epochs must be at most"),
        ({"model.name": "vgg16"}, "VGG16 does not fit images of 8x8x1"),
    ],
)
def test_build_refuses_what_does_not_fit_the_data_set(fields, words):
    config = tiny_config(fields)
    with pytest.raises(ConfigError, match=words):
        build(config, open_dataset(config))
