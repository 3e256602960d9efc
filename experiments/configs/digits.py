"""RigL + Sup-tickets on scikit-learn's 1,797 handwritten digits: the embedded default.

    python -m experiments.main --config=experiments/configs/digits.py --workdir=runs/digits

Needs no download; 2 CPU cores carry it in about a minute.
"""

from ml_collections import ConfigDict

from experiments.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config; see `common.SHORT_NAMES` for the words of `arg`."""
    config = common.base()
    config.dataset = "digits"
    config.validation_size = 200
    config.model.name = "digits_cnn"
    config.batch_size = 64
    config.epochs = 40
    config.sparsity = 0.9
    config.topology.update({"update_every": 60, "ramp_epochs": (0, 16), "drop_decay": "cosine"})
    config.optimizer.learning_rate = 0.05
    # A cycle has 76 steps: what it grows must be trained in them (docs/study.md).
    config.sup_tickets.update({"cycle_fraction": 0.3, "low": 5e-4, "high": 0.1, "exploration": 0.1})
    return common.finish(config, arg, runlocal)


def runlocal(config: ConfigDict) -> None:
    """Cut the run down to a few seconds."""
    config.epochs = 6
    config.topology.update_every = 10
    config.topology.ramp_epochs = (0, 2)
    config.sup_tickets.cycle_fraction = 0.5
