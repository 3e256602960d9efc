"""All averaging rules on the same tickets: `python -m experiments.superpose runs/study`.

Every finished run with tickets below the folders is opened, its tickets are superposed by each
rule of the library, and what the results do on held-out examples and on the test split goes into
`analysis/superpositions.json` of the run's folder, of which `experiments.report` makes columns. A
run that has the file is left alone. Nothing is trained.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from experiments.analysis.finished_run import FinishedRun
from experiments.analysis.superpositions import scores, superpositions
from experiments.command_line import run_command
from experiments.errors import ConfigError, RunError
from experiments.records.atomic import write_text
from experiments.records.folder import RunFolder
from experiments.records.summary import read_summary
from experiments.saying import say
from experiments.start_jax import start_jax
from experiments.study.finding import find_folders
from experiments.study.statistics import has_superposition
from supjax.checks import some


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_integer("batches", 50, "Training batches for batch-norm statistics.", 1)
    flags.DEFINE_string("data_dir", "", "TFDS's data directory; default: the run's.")


def superpose_run(folder: RunFolder, *, batches: int, data_dir: str = "") -> dict[str, Any]:
    """Superpose a run's tickets by all rules, and write what they do into its folder.

    Args:
      folder: of a finished run with tickets.
      batches: training batches from which batch-norm statistics are estimated.
      data_dir: TFDS's data directory; empty for the run's.

    Returns:
      What the file holds: the split of the choices, and scores by the name of the rule.
    """
    run = FinishedRun(folder.path, batches=batches, data_dir=data_dir)
    found = {"split": run.split, "rules": scores(run, superpositions(run))}
    folder.analysis.mkdir(exist_ok=True)
    write_text(folder.superpositions_file, json.dumps(found, indent=1) + "\n")
    return found


def main(folders: list[str]) -> None:
    """Superpose the tickets of all runs below the folders, and say what each rule gives."""
    if not folders:
        raise ConfigError("name the folders of runs: python -m experiments.superpose runs/study")
    finished, _ = find_folders(map(Path, folders))
    wanted = [folder for folder in finished if has_superposition(read_summary(folder.path))]
    if not wanted:
        raise RunError(f"no finished run with tickets below {some(folders)}")
    start_jax()
    given = flags.FLAGS
    for number, folder in enumerate(wanted, 1):
        place = f"[{number}/{len(wanted)}] {folder.path}"
        if folder.superpositions_file.exists():
            say(f"{place}: done before")
            continue
        found = superpose_run(folder, batches=given.batches, data_dir=given.data_dir)
        words = (f"{n} {100 * row['test_accuracy']:.2f}" for n, row in found["rules"].items())
        say(f"{place}: test accuracy in %: {', '.join(words)}")
    say(f"python -m experiments.report {' '.join(folders)} shows them side by side")


if __name__ == "__main__":
    run_command(define_flags, main, arguments=True)
