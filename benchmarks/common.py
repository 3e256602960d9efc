"""What every benchmark shares: interleaved timing, the environment, tables and JSON files."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Timing(NamedTuple):
    """Wall-clock seconds of one function.

    Attributes:
      median: over all repetitions.
      least: the fastest repetition.
      most: the slowest repetition.
      repetitions: how many there were.
    """

    median: float
    least: float
    most: float
    repetitions: int


def time_interleaved(
    functions: Mapping[str, Callable[[], Any]], repetitions: int, budget: float
) -> dict[str, Timing]:
    """Time functions in turn, so that a change of the machine's load meets all of them.

    Args:
      functions: name -> function without arguments; called once before, to compile. Its results
        are waited for.
      repetitions: most timed calls of every function.
      budget: seconds for the calls of one function; a slow one is called less often, but thrice,
        and its calls are spread over the whole time.

    Returns:
      name -> timing.
    """
    seconds = {}
    schedule = []
    for name, function in functions.items():
        jax.block_until_ready(function())
        seconds[name] = [_seconds(function)]
        planned = min(repetitions, max(3, int(budget / seconds[name][0])))
        schedule += [((call + 0.5) / planned, name) for call in range(planned - 1)]
    for _, name in sorted(schedule):
        seconds[name].append(_seconds(functions[name]))
    return {
        name: Timing(statistics.median(taken), min(taken), max(taken), len(taken))
        for name, taken in seconds.items()
    }


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def ratio_spread(first: Timing, second: Timing) -> list[float]:
    """Ratios of the fastest calls and of the slowest ones, the smaller first.

    >>> ratio_spread(Timing(2.0, 1.0, 4.0, 3), Timing(1.0, 0.5, 4.0, 3))
    [1.0, 2.0]
    """
    return sorted((first.least / second.least, first.most / second.most))


def chosen(
    parser: argparse.ArgumentParser, what: str, text: str | None, known: Collection[str]
) -> list[str]:
    """Return the names of a flag, separated by commas; all known ones without a text.

    An unknown one ends the program by `parser.error`, in a line that says `what` it should be.
    """
    names = list(known) if text is None else text.split(",")
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown {what} {unknown[0]!r}; known: {', '.join(known)}")
    return names


def milliseconds(timing: Timing, digits: int = 1) -> list[str]:
    """Return the median, and the fastest to the slowest call, as two cells of a table."""
    median, least, most = (f"{1e3 * value:.{digits}f}" for value in timing[:3])
    return [median, f"{least} to {most}"]


def milliseconds_cell(timing: Timing) -> str:
    """Return the median, and the fastest to the slowest call, as one cell; three digits each.

    >>> milliseconds_cell(Timing(0.0123, 0.01, 0.5, 3))
    '12.3 (10 to 500)'
    """
    median, least, most = (f"{1e3 * value:.3g}" for value in timing[:3])
    return f"{median} ({least} to {most})"


def environment() -> dict[str, Any]:
    """Hardware, versions and date, to stand beside every figure."""
    device = jax.devices()[0]
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{device.platform}: {device.device_kind} x {jax.device_count()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("jax", "jaxlib", "flax", "optax", "numpy")
        },
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write the results, timings by their fields, and the environment that they come from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), **_by_field(results)}
    path.write_text(json.dumps(content, indent=2) + "\n")


def _by_field(value: Any) -> Any:
    if isinstance(value, Timing):
        return value._asdict()
    return {k: _by_field(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table; all columns but the first are aligned right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def show(cells: Sequence[str]) -> None:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        print("|", " | ".join(padded), "|")

    show(header)
    show(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    for row in rows:
        show(row)
