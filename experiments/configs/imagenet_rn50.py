r"""ResNet-50 on ImageNet, the paper's set-up: 100 epochs, 92 normal and 4 cycles of 2.

    python -m experiments.main \
        --config=experiments/configs/imagenet_rn50.py:method=rigl,sparsity=0.8,seed=0 \
        --config.runtime.data_dir=DIR --workdir=runs/imagenet_rigl_0.8_0

Published (Yin et al., UAI 2022, top-1): RigL 75.1 -> with Sup-tickets 76.0 at 80 %, 73.0 -> 74.0
at 90 %. Meant for several GPUs; `DIR` holds TFDS's imagenet2012, written by
`python -m experiments.prepare_data`.
"""

from ml_collections import ConfigDict

from experiments.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config; see `common.SHORT_NAMES` for the words of `arg`."""
    config = common.base()
    config.dataset = "imagenet2012"
    config.validation_size = 10_000
    config.model.name = "imagenet_resnet50"
    config.epochs = 100
    config.sparsity = 0.8
    config.topology.update_every = 4_000
    config.topology.drop_decay = "cosine"
    config.topology.ramp_epochs = (0, 30)
    config.optimizer.update(
        {
            "weight_decay": 1e-4,
            "decay_batch_norm": False,
            "milestones": (30, 60, 85),
            "warmup_epochs": 5,
            "label_smoothing": 0.1,
        }
    )
    config.sup_tickets.update({"cycle_fraction": 0.08, "low": 1e-4, "high": 5e-4})
    return common.finish(config, arg, runlocal)


def runlocal(config: ConfigDict) -> None:
    """Cut the network and the run down to a smoke run on a small sample of images."""
    config.model.width = 0.125
    config.batch_size = 16
    config.epochs = 4
    config.validation_size = 16
    config.topology.update_every = 5
    config.topology.ramp_epochs = (0, 1)
    config.optimizer.update({"milestones": (1, 2, 3), "warmup_epochs": 1})
    config.sup_tickets.cycle_fraction = 0.5
