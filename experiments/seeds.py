r"""Train several seeds of one config in one compiled program.

    python -m experiments.seeds --config=experiments/configs/digits.py:method=set \
        --seeds=0,1,2,3 --workdir='runs/set/seed={seed}'

Every seed's folder gets what `experiments.main` would write there, and either command continues
it. For small networks on one device this is faster than one seed after another (docs/ablations.md
says by how much). Finished seeds are skipped. A seed that diverges leaves the others, which go on
from their last checkpoint; the exit status is then 3.
"""

from collections import defaultdict
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from experiments.checkpoints.manager import Checkpoints
from experiments.command_line import CONFIGS, define_config, run_command
from experiments.errors import ConfigError, DivergedError, OutOfStepError
from experiments.records.folder import SEED_PLACE, RunFolder
from experiments.records.summary import is_finished
from experiments.saying import say
from experiments.start_jax import start_jax
from experiments.train import train_together
from supjax.checks import some


def make_folders(config: ConfigDict, seeds: Sequence[str], workdir: str) -> list[RunFolder]:
    """Return the folders of the seeds' runs.

    Args:
      config: of all of them; its own seed does not count.
      seeds: whole numbers as text.
      workdir: folder of a run, with `{seed}` in its place.

    Raises:
      ConfigError: if a seed is no number or named twice, or all runs would share a folder.

    >>> folders = make_folders(ConfigDict({"seed": 0}), ["3", "5"], "runs/s{seed}")
    >>> [folder.path.name for folder in folders]
    ['s3', 's5']
    """
    if SEED_PLACE not in workdir:
        raise ConfigError(f"--workdir must hold {SEED_PLACE}, got {workdir!r}")
    if not seeds or not all(seed.isdecimal() for seed in seeds):
        raise ConfigError(f"--seeds must be numbers such as 0,1,2, got {some(seeds, none='')!r}")
    numbers = [int(seed) for seed in seeds]
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"--seeds must differ, got {some(seeds)}")
    folders = []
    for number in numbers:
        own = config.copy_and_resolve_references()
        own.seed = number
        folders.append(RunFolder(workdir.replace(SEED_PLACE, str(number)), own))
    return folders


def in_step(folders: Sequence[RunFolder]) -> list[list[RunFolder]]:
    """Return the folders in groups whose newest checkpoints are of the same step."""
    groups = defaultdict(list)
    for folder in folders:
        groups[tuple(Checkpoints(folder.path, primary=False).steps()[-1:])].append(folder)
    return list(groups.values())


def train_seeds(folders: Sequence[RunFolder]) -> None:
    """Train the seeds that are not finished, together where they stand at the same step.

    Raises:
      RunError: as `train_together`; a `DivergedError` once all other seeds are done.
    """
    for folder in folders:
        folder.tie()
    groups = in_step([folder for folder in folders if not is_finished(folder.path)])
    diverged: list[int] = []
    while groups:
        group = groups.pop(0)
        try:
            train_together(group)
        except DivergedError as error:
            say(str(error), to_stderr=True)
            diverged += error.seeds
            rest = [folder for folder in group if folder.config.seed not in error.seeds]
            groups[:0] = [rest] if rest else []
        except OutOfStepError:  # the newest checkpoint of one of them was damaged
            groups[:0] = [[folder] for folder in group]
    if diverged:
        line = f"{len(diverged)} of {len(folders)} seeds diverged: {some(diverged)}"
        raise DivergedError(line, tuple(diverged))


def define_flags() -> None:
    """Define the flags of this command."""
    define_config(str(CONFIGS / "digits.py"), "Config file, with its argument after a colon.")
    flags.DEFINE_list("seeds", ["0", "1", "2", "3"], "Seeds of the runs.")
    flags.DEFINE_string("workdir", "runs/digits/seed={seed}", "Folder of a run.")


def main() -> None:
    """Train the seeds that the flags name."""
    given = flags.FLAGS
    folders = make_folders(given.config, given.seeds, given.workdir)
    start_jax(
        deterministic=given.config.deterministic,
        compilation_cache=given.config.runtime.compilation_cache,
    )
    train_seeds(folders)


if __name__ == "__main__":
    run_command(define_flags, main)
