r"""ResNet-50 on CIFAR-100, the paper's set-up.

    python -m experiments.main \
        --config=experiments/configs/cifar100_resnet50.py:method=rigl,sparsity=0.95,seed=0 \
        --workdir=runs/cifar100_resnet50_rigl_0.95_0

Published (Yin et al., UAI 2022, 95 % sparse, 3 seeds): RigL 76.96 -> with Sup-tickets 77.58.
Meant for one GPU; the data set comes from `python -m experiments.prepare_data`.
"""

from ml_collections import ConfigDict

from experiments.configs.cifar import cifar


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config; see `common.SHORT_NAMES` for the words of `arg`."""
    return cifar("cifar100", "resnet50", arg)
