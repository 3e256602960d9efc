"""The runs below some folders, and what they wrote."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.errors import RunError, reason
from experiments.records.folder import CONFIG_FILE, RunFolder
from experiments.records.summary import is_finished, read_summary


def find_folders(folders: Iterable[Path]) -> tuple[list[RunFolder], list[Path]]:
    """Return the folders of finished runs below the folders, and those of the others."""
    finished, unfinished = [], []
    for folder in folders:
        # Unlike Path.rglob, os.walk does not mind what a running sweep removes meanwhile.
        found = [Path(path) for path, _, files in os.walk(folder) if CONFIG_FILE in files]
        for workdir in sorted(found):
            if is_finished(workdir):
                finished.append(RunFolder(workdir))
            else:
                unfinished.append(workdir)
    return finished, unfinished


def find_runs(folders: Iterable[Path]) -> tuple[list[dict[str, Any]], list[Path]]:
    """Return the summaries of finished runs below the folders, and the folders of the others.

    A run whose tickets `experiments.superpose` has superposed by all rules has `rules` in its
    summary: scores by the name of the rule.

    Raises:
      RunError: if what a run wrote is damaged.
    """
    finished, unfinished = find_folders(folders)
    summaries = []
    for folder in finished:
        summary = read_summary(folder.path)
        if folder.superpositions_file.exists():
            summary["rules"] = _rules(folder.superpositions_file)
        summaries.append(summary)
    return summaries, unfinished


def _rules(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["rules"]
        return {str(name): {"test_accuracy": row["test_accuracy"]} for name, row in found.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RunError(
            f"{path} is damaged ({reason(error)}): remove it, and python -m experiments.superpose "
            "makes it again"
        ) from error
