"""The metrics of a run on disk: JSON lines, and TensorBoard events beside them."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.records.atomic import write_text
from experiments.records.event_file import EventFile
from experiments.records.folder import RunFolder


class MetricWriter:
    """Metrics in `metrics.jsonl`, and in TensorBoard events if tensorboardX is there.

    A line is `{"step": ..., "kind": ..., **values}`. JSON has no NaN and no infinity: such a value
    is written as null and named under `_nonfinite`; `read_metrics` gives it back. A line has left
    the process when `write` returns: metrics that are written before the checkpoint of the same
    step are there whenever the checkpoint is.
    """

    def __init__(self, workdir: Path, *, resume_step: int | None, tensorboard: bool = True) -> None:
        """Open the files of a run.

        Args:
          workdir: folder of the run.
          resume_step: training steps that are done: lines about later ones, which a crash has
            undone, are dropped. None starts from nothing.
          tensorboard: whether to write TensorBoard events as well.

        Raises:
          OSError: if the metrics cannot be written (the file is named).
        """
        self._path = RunFolder(workdir).metrics_file
        done = -1 if resume_step is None else resume_step
        kept = [json.dumps(row) + "\n" for row in _rows(self._path) if row["step"] <= done]
        write_text(self._path, "".join(kept))
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115  (lives as long as self)
        folder = RunFolder(workdir).tensorboard
        self._events = EventFile(folder, purge_step=done + 1) if tensorboard else None

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Add one line.

        Args:
          step: training steps done.
          kind: what the values are about, such as `train`, `validation` or `ticket`.
          values: numbers (also arrays of one number) and strings by name.

        Raises:
          OSError: if the line cannot be written (the file is named).
        """
        plain = {name: _plain(value) for name, value in values.items()}
        lost = {name: str(value) for name, value in plain.items() if not _is_finite(value)}
        row = {"step": int(step), "kind": kind, **plain, **dict.fromkeys(lost)}
        line = json.dumps(row | ({"_nonfinite": lost} if lost else {}), allow_nan=False)
        rest = f"{line}\n".encode()
        try:
            while rest:  # a disk that is nearly full takes one part and refuses the next
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        if self._events is not None:
            self._events.write(int(step), {f"{kind}/{name}": x for name, x in plain.items()})

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run, finished or not; no file means no metrics.

    Args:
      workdir: folder of the run.

    Returns:
      The lines in the order in which they were written. One that a crash cut short is left out.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = MetricWriter(Path(folder), resume_step=None, tensorboard=False)
    ...     writer.write(10, "train", {"loss": float("inf")})
    ...     writer.close()
    ...     read_metrics(Path(folder))
    [{'step': 10, 'kind': 'train', 'loss': inf}]
    """
    rows = []
    for row in _rows(RunFolder(workdir).metrics_file):
        lost = row.pop("_nonfinite", {})
        rows.append(row | {name: float(value) for name, value in lost.items()})
    return rows


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a file as they stand there."""
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and "step" in row:
                yield row


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
