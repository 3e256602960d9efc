r"""A real CIFAR-10 run that two CPU cores carry: ResNet-20 at half width, 8 epochs, RigL, 90 %.

    python -m experiments.main --config=experiments/configs/cifar10_small.py \
        --config.runtime.data_dir=DIR --workdir=runs/cifar10_small

No published number: the paper's networks are wider and train for 250 epochs.
"""

from ml_collections import ConfigDict

from experiments.configs import cifar, common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config; see `common.SHORT_NAMES` for the words of `arg`."""
    config = common.base()
    config.dataset = "cifar10"
    config.model.update({"name": "resnet20", "width": 0.5})
    config.epochs = 8
    config.sparsity = 0.9
    # The decay is RigL's own; docs/study.md has what the constant 0.5 costs.
    config.topology.update({"update_every": 200, "ramp_epochs": (0, 3), "drop_decay": "cosine"})
    config.sup_tickets.update({"cycle_fraction": 0.375})
    return common.finish(config, arg, cifar.runlocal)
