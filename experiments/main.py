"""Train, superpose and report: `python -m experiments.main --config=... --workdir=...`.

Exit status: 0 finished, 1 failed, 2 unusable flags or config, 3 loss no longer finite, 130 or 143
stopped by SIGINT or SIGTERM after saving (the same command continues the run).
"""

import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from experiments.compilation_cache import enable_compilation_cache
from experiments.errors import RunError
from experiments.train import train_and_evaluate

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    str(Path(__file__).parent / "configs" / "digits.py"),
    "Config file, with its argument after a colon: FILE.py:method=set,sparsity=0.9,seed=1",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "Folder of the run.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, for several hosts."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes, for several hosts.")
_PROCESS = flags.DEFINE_integer("process", None, "Index of this process, for several hosts.")


def main(argv: list[str]) -> None:
    """Run the experiment; errors that a user can act on are one line each."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags start with --")
    logging.set_verbosity(logging.WARNING)
    try:
        enable_compilation_cache(_CONFIG.value.runtime.compilation_cache)
        if _COORDINATOR.value:
            jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        train_and_evaluate(_CONFIG.value, _WORKDIR.value)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    app.run(main)
