r"""End commands at random moments in every way, and compare what comes of them in the end.

    python -m tests.experiments.main_job.fault_drill [--seed=0] [--short] [--only seeds sweep]

Runs, seeds, a sweep and a preparation of data are ended again and again: by SIGKILL, SIGTERM,
SIGINT and SIGHUP, once and twice, and by a full disk; at training steps, while a checkpoint or a
ticket is being written, during the start, in the report and its plots. The same command continues
every time. In the end results, tickets, last training states, metrics and data are compared, byte
for byte, with those that nobody disturbed. 60 ends take about 6 minutes of 2 CPU cores.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import print_table, write_json
from experiments.records.folder import RunFolder
from experiments.records.metrics import read_metrics
from experiments.records.summary import read_summary

TIMES = ("images_per_second", "wall_seconds")

KILL, TERM, INT, HUP = ((n,) for n in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"))
FULL = ("full disk",)

PLAN: dict[str, list[tuple[tuple[str, ...], str, int]]] = {
    "main": [
        (KILL, "save", 8),
        (KILL, "step", 3),
        (KILL, "ticket", 2),
        (KILL, "start", 2),
        (TERM, "step", 2),
        (TERM, "ticket", 1),
        (TERM, "start", 1),
        (TERM * 2, "step", 2),
        (INT, "step", 1),
        (INT, "start", 1),
        (INT * 2, "step", 2),
        (HUP, "step", 2),
        (HUP, "ticket", 1),
        (FULL, "step", 3),
        (KILL, "finish", 3),
        (TERM, "finish", 1),
        (INT, "finish", 1),
        (FULL, "finish", 1),
        (KILL, "plots", 2),
        (INT, "plots", 1),
        (HUP, "plots", 1),
    ],
    "seeds": [
        (KILL, "save", 2),
        (KILL, "step", 1),
        (TERM, "step", 1),
        (HUP, "step", 1),
        (FULL, "step", 1),
        (KILL, "finish", 1),
    ],
    "sweep": [(KILL, "step", 2), (TERM, "step", 1), (("SIGKILL of a cell",), "step", 2)],
    "prepare_data": [
        (KILL, "share", 3),
        (TERM, "share", 1),
        (INT, "share", 1),
        (HUP, "share", 1),
        (FULL, "share", 1),
    ],
}
"""Of every command: how it is ended, at what moment, how often."""

SHORT: dict[str, list[tuple[tuple[str, ...], str, int]]] = {
    "main": [(KILL, "save", 1), (TERM * 2, "step", 1), (KILL, "finish", 1), (INT, "plots", 1)],
    "prepare_data": [(KILL, "share", 1)],
}
"""What the suite does."""

TOLD = {"SIGKILL": (-9,), "SIGTERM": (143, -15), "SIGINT": (130, -2), "SIGHUP": (129, -1)}
"""Exit statuses by the first signal; negative ones are of a process that had nothing to save."""


class End(NamedTuple):
    """One end of a command.

    Attributes:
      how: names of the signals, or `FULL`.
      moment: "step", "save", "ticket", "start", "finish", "plots", or "share" of the whole time.
      step: only after so many training steps.
      share: random number in [0, 1), how much later.
    """

    how: tuple[str, ...]
    moment: str
    step: int
    share: float

    @property
    def kind(self) -> str:
        """In words."""
        first = f"{self.how[0]} twice" if len(self.how) > 1 else self.how[0]
        return first if self.moment == "share" else f"{first} at {self.moment}"

    def allows(self, status: int | None) -> bool:
        """Say whether an exit status is the usual one of such an end."""
        if self.how == FULL:
            return status in (1, 4)
        return status in TOLD.get(self.how[0], (1,))


def plan_ends(
    table: Sequence[tuple[tuple[str, ...], str, int]], total_steps: int, seed: int
) -> list[End]:
    """Return the ends of a command in a random order, spread over its steps; reports come last.

    >>> ends = plan_ends(PLAN["seeds"], 70, seed=0)
    >>> [end.moment for end in ends][-1], len(ends)
    ('finish', 7)
    """
    rng = random.Random(seed)
    last = {"finish": 1, "plots": 2}
    kinds = [(how, moment) for how, moment, count in table for _ in range(count)]
    rng.shuffle(kinds)
    tickets = [kind for kind in kinds if kind[1] == "ticket"]
    kinds = sorted((k for k in kinds if k not in tickets), key=lambda kind: last.get(kind[1], 0))
    training = sum(moment not in last for _, moment in kinds)
    for index, kind in enumerate(tickets):  # the first is written half-way through the run
        kinds.insert(training // 2 + index + rng.randrange(training // 2 + 1), kind)
    early = max(sum(moment not in last for _, moment in kinds), 1)
    ends = []
    for index, (how, moment) in enumerate(kinds):
        step = min(int((index + rng.random()) * total_steps / early), total_steps - 1)
        ends.append(End(how, moment, step, rng.random()))
    return ends


def fingerprints(workdir: Path) -> dict[str, str]:
    """Return hashes of all that a finished run has computed; times are left out."""
    files = [RunFolder(workdir).result_file, *sorted((workdir / "tickets").glob("*.npz"))]
    parts = {str(path.relative_to(workdir)): path.read_bytes() for path in files}
    parts["metrics.jsonl"] = _json([_without_times(row) for row in read_metrics(workdir)])
    parts["summary.json"] = _json(_without_times(read_summary(workdir)))
    newest = max(saved_steps(workdir))
    with np.load(workdir / "checkpoints" / str(newest) / "state.npz") as archive:
        arrays = dict(archive)
    manifest = json.loads(arrays.pop("manifest").tobytes())
    del manifest["info"]["clock"]
    parts["state"] = _json(manifest)
    parts |= {name: array.tobytes() for name, array in arrays.items()}
    return {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}


def file_hashes(folder: Path) -> dict[str, str]:
    """Return hashes of all files below a folder, but for hidden ones."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.startswith(".")
    }


def saved_steps(workdir: Path) -> list[int]:
    """Return the steps of a run's checkpoints."""
    folder = workdir / "checkpoints"
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return [int(name) for name in names if name.isdecimal()]


def _without_times(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in TIMES}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


class Disk:
    """A small file system of its own, whose size can change; without root an ordinary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)]
        self.can_fill = not subprocess.run(words, capture_output=True, check=False).returncode

    def leave(self, free: int | None) -> None:
        """Leave so many bytes free; None for plenty."""
        used = subprocess.run(
            ["df", "-B1", "--output=used", str(self.folder)], capture_output=True, check=True
        )
        size = "1g" if free is None else str(int(used.stdout.split()[-1]) + free)
        words = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        subprocess.run(words, check=True)

    def __enter__(self) -> "Disk":
        return self

    def __exit__(self, *error: object) -> None:
        if self.can_fill:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


def run_drill(
    folder: Path, plan: dict[str, list[tuple[tuple[str, ...], str, int]]], seed: int
) -> list[dict[str, Any]]:
    """Run the whole drill; return a row for every kind of end.

    Args:
      folder: emptied first.
      plan: see `PLAN`.
      seed: of the random moments.
    """
    from tests.experiments.main_job.drill_commands import COMMANDS

    rows: list[dict[str, Any]] = []
    shutil.rmtree(folder, ignore_errors=True)
    with Disk(folder / "disturbed") as disk:
        for name, table in plan.items():
            command = COMMANDS[name](folder / "undisturbed", disk, folder / f"{name}.log")
            print(f"{name}: undisturbed", file=sys.stderr)
            total_steps = command.run_undisturbed()
            met: Counter[str] = Counter()
            for end in plan_ends(table, total_steps, seed):
                if end.how == FULL and not disk.can_fill:
                    continue
                for _ in range(3):  # an end may come too late
                    if command.end(end):
                        met[end.kind] += 1
                        print(f"{name}: {end.kind}, step {end.step}", file=sys.stderr)
                        break
                    print(f"{name}: came too late: {end}", file=sys.stderr)
            expected, found = command.finish()
            different = sorted(n for n in expected | found if expected.get(n) != found.get(n))
            for kind, tries in met.items():
                row = {"command": name, "end": kind, "tries": tries, "compared": len(expected)}
                rows.append(row | {"different": different})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Drill, print the table, write the JSON file; exit status 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.main_job.fault_drill")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--only", nargs="*", default=list(PLAN), help="commands: all by default")
    parser.add_argument("--short", action="store_true", help="a few ends")
    parser.add_argument("--workdir", type=Path, default=Path("runs/fault_drill"))
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/fault_drill.json"))
    given = parser.parse_args(arguments)
    plan = SHORT if given.short else PLAN
    rows = run_drill(given.workdir, {n: plan[n] for n in given.only if n in plan}, given.seed)
    print_table(
        ["command", "end", "tries", "files compared", "different"],
        [
            [
                *(str(row[name]) for name in ("command", "end", "tries", "compared")),
                str(len(row["different"])),
            ]
            for row in rows
        ],
    )
    different = sorted({name for row in rows for name in row["different"]})
    print(f"{sum(row['tries'] for row in rows)} ends, {len(different)} files differ", *different)
    write_json(given.output, {"rows": rows})
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the forks of a drill under nohup get them too
    main()
