"""The paper's CIFAR set-up (METHOD section 3), shared by the six CIFAR configs.

250 epochs: 226 normal ones with the rate divided by 10 at half and three quarters, then 3 cycles
of 8 epochs between 0.001 and 0.005.
"""

from ml_collections import ConfigDict

from experiments.configs import common


def cifar(dataset: str, model: str, arg: str | None) -> ConfigDict:
    """Return the config of one network on one data set."""
    config = common.base()
    config.dataset = dataset
    config.model.name = model
    return common.finish(config, arg, runlocal)


def runlocal(config: ConfigDict) -> None:
    """Cut the network and the run down to a smoke run; the data set stays whole."""
    config.model.width = 0.125
    config.batch_size = 500
    config.epochs = 4
    config.topology.update_every = 40
    config.topology.ramp_epochs = (0, 2)
    config.sup_tickets.cycle_fraction = 0.5
