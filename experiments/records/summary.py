"""What a run has achieved: `summary.json`, and the table at its end."""

import datetime
import io
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import Box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from experiments.records.atomic import write_text
from experiments.records.folder import RunFolder
from experiments.saying import is_terminal

MAX_COLUMNS = 100
RULED = Box("    \n    \n----\n    \n    \n    \n    \n    \n", ascii=True)


def write_summary(workdir: Path, summary: Mapping[str, Any]) -> Path:
    """Write `summary.json`, all or nothing; NaN and infinity become null.

    Args:
      workdir: folder of the run.
      summary: a tree of dicts with what was reached, on what, and how; NumPy and JAX numbers
        are taken as well.

    Returns:
      The path of the file.

    Raises:
      OSError: if it cannot be written; an older one is then still whole.
    """
    text = json.dumps(_plain(summary), indent=2, ensure_ascii=False, allow_nan=False)
    return write_text(RunFolder(workdir).summary_file, text + "\n")


def read_summary(workdir: Path) -> dict[str, Any]:
    """Read the summary of a finished run.

    Args:
      workdir: folder of the run.

    Returns:
      The summary.

    Raises:
      FileNotFoundError: if the run has not been finished.
    """
    return json.loads((RunFolder(workdir).summary_file).read_text(encoding="utf-8"))


def is_finished(workdir: Path) -> bool:
    """Say whether a run has written a whole summary.

    >>> is_finished(Path("nowhere"))
    False
    """
    try:
        read_summary(workdir)
    except (OSError, ValueError):
        return False
    return True


def render_table(
    summary: Mapping[str, Any], workdir: Path | None = None, *, terminal: bool | None = None
) -> str:
    """Draw the networks of a run as a table, with the run's figures below.

    Args:
      summary: `networks`, `result`, `exploration_rate`, `flops`, `wall_seconds`,
        `images_per_second`, `hardware` as in `summary.json`; what is missing is shown as "-". A
        network has `name`, `kind` (pretrained, ticket, superposed, repaired, selected, ensemble,
        final, ema, tail),
        `density` and, where it was evaluated, `validation` and `test` with `accuracy` and `loss`.
      workdir: folder of the run, to say which files lie there.
      terminal: whether to use a terminal's width and styles; None looks at standard output.

    Returns:
      Lines of at most 100 columns; without a terminal they are plain ASCII text.
    """
    if terminal is None:
        terminal = is_terminal(sys.stdout)
    width = min(MAX_COLUMNS, shutil.get_terminal_size().columns) if terminal else MAX_COLUMNS
    file = io.StringIO()
    # Without a height, rich overrules the width on some terminals.
    console = Console(file=file, force_terminal=terminal, width=width, height=100, highlight=False)
    console.print(Group(_networks(summary), "", _figures(summary, workdir)))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _networks(summary: Mapping[str, Any]) -> RenderableType:
    table = Table(
        box=RULED, show_edge=False, pad_edge=False, collapse_padding=True, header_style="bold"
    )
    table.add_column("network", overflow="fold")
    for title in ("density", "val. acc.", "test acc.", "test loss"):
        table.add_column(title, justify="right")
    table.add_column("")
    for network in summary["networks"]:
        result = network["name"] == summary["result"]
        table.add_row(
            Text(network["name"]),
            _format("{:.2%}", network.get("density")),
            _format("{:.2%}", _metric(network, "validation", "accuracy")),
            _format("{:.2%}", _metric(network, "test", "accuracy")),
            _format("{:.4f}", _metric(network, "test", "loss")),
            "result" if result else "",
            style="bold green" if result else None,
        )
    return table


def _figures(summary: Mapping[str, Any], workdir: Path | None) -> RenderableType:
    flops, device = summary.get("flops") or {}, summary.get("hardware") or {}
    seconds, speed = summary.get("wall_seconds"), summary.get("images_per_second")
    on = f" on {device['devices']} x {device['device']}" if device else ""
    lines = [
        *_start(summary),
        *_differences(summary),
        *_judgement(summary),
        (
            "exploration R_s",
            f"{_format('{:.2%}', summary.get('exploration_rate'))} of the maskable weights were "
            "active at least once",
        ),
        (
            "FLOPs",
            f"training {_format('{:.3f}', flops.get('train_relative'))}, "
            f"inference {_format('{:.3f}', flops.get('inference_relative'))} of the dense network",
        ),
        (
            "dense forward",
            f"{_format('{:,.2f}', flops.get('dense_forward'), 1e-6)} MFLOPs an image",
        ),
        ("time", f"{_duration(seconds)}, {_format('{:,.0f}', speed)} images/s{on}"),
    ]
    if workdir is not None:
        paths = sorted(path for path in workdir.iterdir() if not path.name.startswith("."))
        names = ", ".join(path.name + "/" * path.is_dir() for path in paths)
        lines += [("files", str(workdir)), ("", names)]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in lines:
        grid.add_row(name, Text(text))
    return grid


def _start(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say what a run started from, and that its epochs are extra."""
    start = summary.get("start_from")
    if not start:
        return []
    return [("started from", f"{start['path']}; {start['extra_epochs']:g} epochs extra")]


def _differences(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Compare the accuracy of a superposed result with what it was made of."""
    networks = summary["networks"]
    result = next(network for network in networks if network["name"] == summary["result"])
    if result["kind"] not in ("superposed", "repaired", "selected"):
        return []
    split = "validation" if _metric(result, "test", "accuracy") is None else "test"
    found: dict[str, list[float]] = {"pretrained": [], "ticket": [], "ensemble": []}
    found |= {"ema": [], "tail": []}
    for network in networks:
        accuracy = _metric(network, split, "accuracy")
        if network["kind"] in found and accuracy is not None:
            found[network["kind"]].append(accuracy)
    count = len(found["ticket"])
    names = {
        "pretrained": "the end of the normal phase",
        "ticket": f"the mean of {count} ticket{'s' * (count > 1)}",
        "ensemble": "the ensemble of the tickets",
        "ema": "the moving average of the weights",
        "tail": "the mean of the last cycle",
    }
    accuracy = _metric(result, split, "accuracy")
    lines = [
        f"{100 * (accuracy - sum(values) / len(values)):+.2f} points against {names[kind]}"
        for kind, values in found.items()
        if values and accuracy is not None
    ]
    return [(f"result ({split})" if not i else "", line) for i, line in enumerate(lines)]


def _judgement(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say what cycles ran with, what was repaired or chosen, and what neighbours are."""
    lines = []
    if cycles := summary.get("cycles"):
        ran = {name: [cycle[name] for cycle in cycles] for name in ("high", "exploration")}
        highs, shares = (", ".join(f"{value:.3g}" for value in ran[name]) for name in ran)
        lines.append(("adapted", f"high {highs}; exploration {shares}"))
    if repair := summary.get("repair"):
        text = f"activations of {repair['members']} members on {repair['images']} training images"
        lines.append(("repair", text))
    if choice := summary.get("choice"):
        text = (
            f"{choice['name']}, by {choice['rule']}: loss {_format('{:.4f}', choice['loss'])} +- "
            f"{_format('{:.4f}', choice['standard_error'])} on {choice['images']} "
            f"{choice['split']} images"
        )
        lines.append(("choice", text))
    if found := summary.get("diagnosis"):
        parts = [
            f"distance {_range('{:.2f}', found['distances'])}",
            f"disagreement {_range('{:.2%}', found['disagreements'])}",
            f"barrier {_range('{:+.4f}', found['barriers'])}",
            f"norm {_format('{:.2f}', found['norm_ratio'])} of a ticket's",
        ]
        lines.append(("neighbours", ", ".join(parts)))
        where = f"on {found['images']} {found['split']} images"
        lines.append(("diagnosis", f"{found['advice']} ({where})"))
    return lines


def _range(text: str, values: Sequence[float]) -> str:
    low, high = (_format(text, end) for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _metric(network: Mapping[str, Any], split: str, name: str) -> Any:
    return (network.get(split) or {}).get(name)


def _format(text: str, value: Any, factor: float = 1) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return text.format(value * factor).replace("%", " %")


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


def _plain(value: Any) -> Any:
    """Return what JSON can hold: arrays as numbers or lists, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)
