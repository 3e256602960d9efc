"""Score a ticket file: `python -m experiments.evaluate --ticket=runs/digits/result.npz`."""

import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import supjax
from experiments.build import build, open_dataset
from experiments.compilation_cache import enable_compilation_cache
from experiments.configs import common
from experiments.errors import ConfigError, RunError
from experiments.validation import check_config_values, check_devices
from experiments.walks import make_walk
from supjax.ticket_io import load_metadata, load_ticket
from supjax.tickets import check_same_shapes

_TICKET = flags.DEFINE_string("ticket", None, "File that supjax.save_ticket wrote.", required=True)
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config of data set and network; default: the one stored in the ticket."
)
_SPLIT = flags.DEFINE_enum("split", "test", ["validation", "test"], "Examples to score on.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "TFDS's data directory.")


def evaluate(ticket_file: Path, config: ConfigDict | None, split: str, data_dir: str) -> str:
    """Return one line with accuracy, loss and density of a ticket.

    Args:
      ticket_file: a file that `supjax.save_ticket` wrote.
      config: of data set and network; None takes the one that a run stored in the file.
      split: "validation" or "test".
      data_dir: TFDS's data directory; empty for the config's.

    Raises:
      RunError: if the file is no ticket, or does not fit the config's network.
    """
    try:
        ticket = load_ticket(ticket_file)
        stored = load_metadata(ticket_file).get("config")
    except (OSError, ValueError) as error:
        raise RunError(str(error)) from error
    if config is None:
        if stored is None:
            raise ConfigError(f"{ticket_file} holds no config: name one with --config")
        config = common.base()
        config.update(stored)
    if data_dir:
        config.runtime.data_dir = data_dir
    check_config_values(config)
    devices = check_devices(config, jax.process_count(), jax.local_device_count())
    dataset = open_dataset(config)
    if not dataset.sizes[split]:
        raise ConfigError(f"{dataset.name} has no {split} examples with this config")
    parts = build(config, dataset)
    image = jax.ShapeDtypeStruct((1, *dataset.image_shape), "float32")
    expected = jax.eval_shape(lambda x: parts.model.init(jax.random.key(0), x, train=False), image)
    try:
        what = f"{ticket_file} does not fit {config.model.name} of this config: it differs"
        check_same_shapes(expected["params"], ticket.params, what)
    except ValueError as error:
        raise RunError(str(error)) from error
    scores = make_walk(config, parts, dataset, devices).evaluate((ticket,), split)
    return (
        f"{ticket_file}: {dataset.name} {split} accuracy {scores['accuracy']:.2%}, "
        f"loss {scores['loss']:.4f}, density {float(supjax.density(ticket.masks)):.4f}"
    )


def main(argv: list[str]) -> None:
    """Print the line; errors that a user can act on are one line each."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags start with --")
    logging.set_verbosity(logging.WARNING)
    try:
        enable_compilation_cache("auto")
        print(evaluate(Path(_TICKET.value), _CONFIG.value, _SPLIT.value, _DATA_DIR.value))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    app.run(main)
