"""What the tickets of a run are and do: `python -m experiments.analyse --workdir=runs/digits`.

Reads a finished run and writes `analysis/` into its folder: analysis.json, and pictures of the
distance between the networks, of the way and the plane between them, of their calibration,
operations and exploration. Prints how superposition compares with the ensemble of the tickets.
"""

import io
import json
from collections.abc import Mapping
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from experiments.analysis import sections
from experiments.analysis.finished_run import FinishedRun
from experiments.command_line import run_command
from experiments.paths import local_path
from experiments.records.atomic import write_text
from experiments.records.folder import RunFolder
from experiments.records.summary import MAX_COLUMNS, RULED
from experiments.saying import say
from experiments.start_jax import start_jax

JSON_FILE = "analysis.json"


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("workdir", "runs/digits", "Folder of the run.")
    flags.DEFINE_integer("points", 8, "Points from one ticket to the next.", lower_bound=2)
    flags.DEFINE_integer("grid", 11, "Points along each axis of the plane.", lower_bound=2)
    flags.DEFINE_integer("batches", 8, "Training batches for batch-norm statistics.", lower_bound=1)
    flags.DEFINE_string("data_dir", "", "TFDS's data directory; default: the run's.")


def analyse(run: FinishedRun, *, points: int, grid: int) -> dict[str, Any]:
    """Analyse a run, and write what was found into the folder `analysis` of it.

    Args:
      run: an opened run.
      points: resolution of the path, in points from one ticket to the next.
      grid: resolution of the plane, in points along each axis.

    Returns:
      What analysis.json holds. A plane needs three networks and exploration metrics that hold it;
      what a run has no material for is left out.
    """
    logits, labels = run.predictions([*run.tickets, run.superposed])
    parts = {
        "ticket_distance": sections.distances(run, logits),
        "interpolation": sections.interpolation(run, points),
        "loss_plane": sections.plane(run, grid),
        "reliability": sections.reliability(logits, labels),
        "flops": sections.operations(run),
        "exploration": sections.exploration(run),
    }
    folder = RunFolder(run.workdir).analysis
    folder.mkdir(exist_ok=True)
    found: dict[str, Any] = {}
    for name, part in parts.items():
        if part is not None:
            found[name], figure = part
            figure.savefig(folder / f"{name}.png")
    found["superposition_and_ensemble"] = sections.compare(logits, labels)
    write_text(folder / JSON_FILE, json.dumps(found, indent=1) + "\n")
    return found


def render(found: Mapping[str, Any]) -> str:
    """Return a table of the networks on the test split, and superposition beside the ensemble.

    Args:
      found: what `analyse` returns.
    """
    one = found["flops"]["sparse_forward"] / found["flops"]["dense_forward"]
    networks = found["reliability"]
    table = Table(box=RULED, show_edge=False, pad_edge=False, collapse_padding=True)
    for title in ("network", "test acc.", "NLL", "ECE", "Brier", "FLOPs"):
        table.add_column(title, justify="left" if title == "network" else "right")
    for name, scores in networks.items():
        cost = one * (len(networks) - 2 if name.startswith("ensemble") else 1)
        table.add_row(
            name,
            f"{100 * scores['accuracy']:.2f} %",
            f"{scores['nll']:.4f}",
            f"{100 * scores['ece']:.2f} %",
            f"{scores['brier']:.4f}",
            f"{cost:.3f}",
        )
    both = found["superposition_and_ensemble"]
    file = io.StringIO()
    console = Console(file=file, force_terminal=False, width=MAX_COLUMNS, highlight=False)
    console.print(table)
    console.print(
        f"\nsuperposed against the ensemble: {100 * both['accuracy_difference']:+.2f} points, "
        f"another class for {100 * both['disagreement']:.2f} %\n"
        f"of {both['examples']} test examples (right alone: {both['only_superposed_right']} "
        f"superposed, {both['only_ensemble_right']} ensemble),\n"
        f"KL divergence {both['kl_divergence']:.4f} nats; "
        "FLOPs: of inference, relative to one dense network"
    )
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def main() -> None:
    """Analyse the run, and print the table and what was written."""
    given = flags.FLAGS
    start_jax()
    workdir = local_path(given.workdir, "--workdir")
    run = FinishedRun(workdir, batches=given.batches, data_dir=given.data_dir)
    found = analyse(run, points=given.points, grid=given.grid)
    say(render(found))
    for name, why in {
        "loss_plane": "it takes three networks",
        "exploration": "the run's metrics hold no exploration_rate",
    }.items():
        if name not in found:
            say(f"no {name}.png: {why}")
    say(f"written to {RunFolder(workdir).analysis}")


if __name__ == "__main__":
    run_command(define_flags, main)
