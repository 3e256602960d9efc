"""Train, superpose and report: `python -m experiments.main --config=... --workdir=...`.

The same command continues an interrupted run and reports a finished one again. Exit status:
0 finished, 1 failed, 2 unusable flags or config, 3 loss no longer finite, 4 unusable checkpoints
or a folder that cannot be written or belongs to another run, 130, 143 or 129 stopped by SIGINT,
SIGTERM or SIGHUP after saving.
"""

import jax
from absl import flags

from experiments.command_line import CONFIGS, define_config, run_command
from experiments.errors import ConfigError
from experiments.start_jax import start_jax
from experiments.train import train_and_evaluate


def define_flags() -> None:
    """Define the flags of this command."""
    define_config(
        str(CONFIGS / "digits.py"),
        "Config file, with its argument after a colon: FILE.py:method=set,sparsity=0.9,seed=1",
    )
    flags.DEFINE_string("workdir", "runs/digits", "Folder of the run.")
    flags.DEFINE_string("coordinator", None, "host:port of process 0, for several processes.")
    flags.DEFINE_integer("processes", None, "Number of processes, for several.", lower_bound=1)
    flags.DEFINE_integer("process", None, "Index of this process, for several.", lower_bound=0)


def main() -> None:
    """Run the experiment that the flags describe."""
    given = flags.FLAGS
    start_jax(
        deterministic=given.config.deterministic,
        compilation_cache=given.config.runtime.compilation_cache,
    )
    group = (given.coordinator, given.processes, given.process)
    if any(value is not None for value in group):
        if None in group or given.process >= given.processes:
            raise ConfigError(
                "several processes need --coordinator=HOST:PORT, --processes=N and "
                f"--process=0..N-1, got {group}"
            )
        jax.distributed.initialize(*group)
    train_and_evaluate(given.config, given.workdir)


if __name__ == "__main__":
    run_command(define_flags, main)
