"""The published numbers, beside the paper's tables."""

from collections import Counter

import pytest

from experiments.configs import cifar10_vgg16, imagenet_rn50
from experiments.study.published import PUBLISHED_CONFIGS, published_accuracies, published_setup

ACCURACIES = published_accuracies()

# Copied row by row from the paper's tables: base method at three sparsities -> with Sup-tickets.
CIFAR = """
cifar10 vgg16 set 92.96/93.54/93.56 -> 93.22/93.63/93.80
cifar10 vgg16 rigl 92.70/93.48/93.60 -> 93.20/93.81/93.85
cifar10 vgg16 granet 93.87/93.83/93.77 -> 94.10/94.13/94.24
cifar10 resnet50 set 94.49/94.73/94.74 -> 94.81/94.87/94.90
cifar10 resnet50 rigl 94.59/94.70/94.70 -> 94.65/94.82/94.81
cifar10 resnet50 granet 94.70/94.95/94.86 -> 94.89/95.08/94.94
cifar10 resnet50 snip 94.01/94.81/94.91 -> 94.33/95.05/95.21
cifar10 resnet50 static 93.44/94.41/94.85 -> 93.92/94.80/95.11
cifar10 wrn28_10 set 95.63/95.85/95.92 -> 95.53/95.91/95.93
cifar10 wrn28_10 rigl 95.70/95.96/96.12 -> 95.90/95.98/96.15
cifar10 wrn28_10 granet 95.95/96.02/96.09 -> 96.03/96.13/96.08
cifar100 vgg16 set 70.10/71.50/72.38 -> 71.18/71.99/73.02
cifar100 vgg16 rigl 70.65/72.20/72.63 -> 71.31/72.57/73.61
cifar100 vgg16 granet 72.91/73.48/73.36 -> 73.61/73.87/73.95
cifar100 resnet50 set 76.59/77.79/78.45 -> 76.68/77.89/78.35
cifar100 resnet50 rigl 76.96/77.95/78.19 -> 77.58/78.52/78.69
cifar100 resnet50 granet 77.47/78.25/78.80 -> 77.70/78.37/78.95
cifar100 resnet50 snip 41.25/68.79/75.29 -> 65.56/76.34/77.43
cifar100 resnet50 static 74.49/76.36/77.41 -> 75.75/76.82/77.85
cifar100 wrn28_10 set 79.36/80.44/80.60 -> 79.66/80.65/80.91
cifar100 wrn28_10 rigl 79.41/80.45/80.92 -> 80.00/80.72/81.16
cifar100 wrn28_10 granet 80.43/80.97/81.31 -> 80.65/81.20/81.42
"""


def numbers(text):
    return [float(number) for number in text.split("/")]


@pytest.mark.parametrize("line", CIFAR.split("\n")[1:-1])
def test_cifar_as_published(line):
    dataset, model, method, bases, _, sups = line.split()
    for sparsity, *pair in zip((0.95, 0.9, 0.8), numbers(bases), numbers(sups), strict=True):
        assert ACCURACIES[dataset, model, method, sparsity] == tuple(pair)


def test_imagenet_as_published():
    found = {
        (method, sparsity): tuple(ACCURACIES[dataset, model, method, sparsity])
        for dataset, model, method, sparsity in ACCURACIES
        if dataset == "imagenet2012"
    }
    expected = {
        "set": [(72.9, None), (69.6, None)],
        "snip": [(72.0, None), (67.2, None)],
        "dsr": [(73.3, None), (71.6, None)],
        "snfs": [(75.2, None), (72.9, None)],
        "rigl": [(75.1, 76.0), (73.0, 74.0)],
        "granet": [(75.9, 76.2), (74.4, 74.6)],
        "rigl_itop": [(75.84, None), (73.82, None)],
    }
    for method, (at_80, at_90) in expected.items():
        assert (found.pop((method, 0.8)), found.pop((method, 0.9))) == (at_80, at_90)
    assert found == {("dense", 0.0): (76.8, None)}


def test_dense_networks_as_published():
    for dataset, values in (("cifar10", (93.91, 94.88, 96.0)), ("cifar100", (73.61, 78.0, 81.09))):
        for model, value in zip(("vgg16", "resnet50", "wrn28_10"), values, strict=True):
            assert ACCURACIES[dataset, model, "dense", 0.0] == (value, None)


def test_no_setting_beyond_the_tables():
    counts = Counter(dataset for dataset, *_ in ACCURACIES)
    assert counts == {"cifar10": 3 * 11 + 3, "cifar100": 3 * 11 + 3, "imagenet2012": 2 * 7 + 1}
    assert {(dataset, model) for dataset, model, _, _ in ACCURACIES} == set(PUBLISHED_CONFIGS)


def setup(words, change=lambda config: None, module=cifar10_vgg16):
    config = module.get_config(words)
    change(config)
    return config.to_dict()


@pytest.mark.parametrize(
    "words", ["", "seed=7", "method=granet,sparsity=0.8", "sup=false", "sparsity=0.5"]
)
def test_settings_of_the_tables_are_the_published_set_up(words):
    assert published_setup(setup(words))
    assert published_setup(setup(words, module=imagenet_rn50))


@pytest.mark.parametrize(
    "words",
    ["epochs=200", "batch_size=64", "average=caa", "width=0.5", "model=vgg19", "augment=false"],
)
def test_every_other_field_counts(words):
    assert not published_setup(setup(words))


def test_held_out_examples_and_runtime_do_not_count():
    def change(config):
        config.validation_size = 0
        config.runtime.devices = 4

    assert published_setup(setup("", change))
