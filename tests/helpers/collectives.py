"""What a compiled program sends between devices, read from its text."""

import re
from collections import Counter
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<shape>.*?) (?P<kind>[a-z][a-z-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?(%?[\w.-]+)")


_SHAPE = re.compile(r"[a-z]+\d*\[[\d,]*\]")


class Traffic(NamedTuple):
    """Collectives of the part of a program that runs on every call.

    Attributes:
      always: `(kind, shape) -> how many arrays` outside of loops and conditionals.
      gated: loops and conditionals there, whose bodies are not looked into.
    """

    always: Counter[tuple[str, str]]
    gated: int


def traffic(text: str) -> Traffic:
    """Return the collectives of a compiled program, from `compiled.as_text()`."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if line and not line[0].isspace() and line.endswith("{") and "HloModule" not in line:
            words = line.split()
            name = words[words[0] == "ENTRY"].lstrip("%")
            bodies[name] = []
            entry = name if words[0] == "ENTRY" else entry
        elif name:
            bodies[name].append(line)
    found: Counter[tuple[str, str]] = Counter()
    gated, waiting = 0, [entry]
    while waiting:
        for line in bodies[waiting.pop()]:
            match = _OPERATION.match(line)
            if match is None:
                continue
            kind = match["kind"].removesuffix("-start")
            if kind in ("while", "conditional"):
                gated += 1
                continue
            if kind in COLLECTIVES:
                found.update((kind, shape) for shape in _SHAPE.findall(match["shape"]))
            waiting += [called.lstrip("%") for called in _CALLED.findall(line)]
    return Traffic(found, gated)
