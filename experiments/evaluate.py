"""Score a ticket file: `python -m experiments.evaluate --ticket=runs/digits/result.npz`."""

from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

import supjax
from experiments.command_line import define_config, run_command
from experiments.configs import common
from experiments.configs.rules import check_config_values, check_devices
from experiments.errors import ConfigError
from experiments.paths import local_path
from experiments.run.build import build, open_dataset
from experiments.run.given_ticket import read_metadata, read_ticket
from experiments.run.seed_axis import SeedAxis
from experiments.run.sources import make_steps
from experiments.saying import say
from experiments.start_jax import start_jax


def define_flags() -> None:
    """Define the flags of this command."""
    define_config(None, "Config of data set and network; default: the one stored in the ticket.")
    flags.DEFINE_string("ticket", None, "File that supjax.save_ticket wrote.", required=True)
    flags.DEFINE_enum("split", "test", ["validation", "test"], "Examples to score on.")
    flags.DEFINE_string("data_dir", "", "TFDS's data directory.")


def evaluate(ticket_file: Path, config: ConfigDict | None, split: str, data_dir: str) -> str:
    """Return one line with accuracy, loss and density of a ticket.

    Args:
      ticket_file: a file that `supjax.save_ticket` wrote.
      config: of data set and network; None takes the one that a run stored in the file.
      split: "validation" or "test".
      data_dir: TFDS's data directory; empty for the config's.

    Raises:
      ConfigError: if the file is no ticket, or does not fit the config's network; one line that
        names the file.
    """
    stored = read_metadata(ticket_file).get("config") if config is None else None
    if config is None and stored is None:
        raise ConfigError(f"{ticket_file} holds no config: name one with --config")
    try:
        config = common.restored(stored) if config is None else config
        check_config_values(config)
        if data_dir:
            config.runtime.data_dir = data_dir
        devices = check_devices(config, jax.process_count(), jax.local_device_count())
        dataset = open_dataset(config)
        if not dataset.sizes[split]:
            raise ConfigError(f"{dataset.name} has no {split} examples with this config")
        parts = build(config, dataset)
    except ConfigError as error:
        where = "" if stored is None else f"{ticket_file}: its config: "
        raise ConfigError(f"{where}{error}") from error
    ticket = read_ticket(ticket_file, parts.shapes, f"{config.model.name} of this config")
    steps = make_steps(parts, SeedAxis([config.seed]), devices, config.runtime)
    [scores] = steps.evaluate((ticket,), split)
    sparse = supjax.count_maskable(ticket.masks)
    density = supjax.count_active(ticket.masks) / sparse if sparse else 1.0
    return (
        f"{ticket_file}: {dataset.name} {split} accuracy {scores['accuracy']:.2%}, "
        f"loss {scores['loss']:.4f}, density {density:.4f}"
    )


def main() -> None:
    """Print the line."""
    given = flags.FLAGS
    start_jax()
    say(evaluate(local_path(given.ticket, "--ticket"), given.config, given.split, given.data_dir))


if __name__ == "__main__":
    run_command(define_flags, main)
