r"""RigL + Sup-tickets on Fashion-MNIST with a small convolutional network.

    python -m experiments.prepare_data --dataset=fashion_mnist --data_dir=DIR --from=FOLDER
    python -m experiments.main --config=experiments/configs/fashion_mnist.py \
        --config.runtime.data_dir=DIR --workdir=runs/fashion_mnist

No published number; meant for studies that two CPU cores can carry.
"""

from ml_collections import ConfigDict

from experiments.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config; see `common.SHORT_NAMES` for the words of `arg`."""
    config = common.base()
    config.dataset = "fashion_mnist"
    config.model.name = "digits_cnn"
    config.epochs = 20
    config.topology.update({"update_every": 200, "ramp_epochs": (0, 7), "drop_decay": "cosine"})
    # Chosen on validation examples (docs/study.md); a cycle has 842 steps.
    config.sup_tickets.update({"cycle_fraction": 0.3, "high": 0.1, "exploration": 0.1})
    return common.finish(config, arg, runlocal)


def runlocal(config: ConfigDict) -> None:
    """Cut the network and the run down to a smoke run."""
    config.model.width = 0.25
    config.batch_size = 500
    config.epochs = 3
    config.topology.update_every = 30
    config.topology.ramp_epochs = (0, 1)
    config.sup_tickets.update({"cycle_fraction": 0.7})
