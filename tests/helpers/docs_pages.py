"""The Markdown pages of the project, and what stands in them."""

import importlib
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its language, the line of its first line of code (from 0), and the code."""

    language: str
    line: int
    code: str


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str) -> list[Block]:
    return [
        Block(m[2].strip(), text.count("\n", 0, m.start(3)), textwrap.dedent(m[3]))
        for m in _FENCE.finditer(text)
    ]


def program(text: str) -> str:
    """Return all blocks of Python of a page, every line with the number that it has there."""
    lines: list[str] = []
    for block in blocks(text):
        if block.language == "python":
            lines += [""] * (block.line - len(lines)) + block.code.splitlines()
    return "\n".join(lines) + "\n"


def shown_output(text: str) -> str:
    """Return what the page says that its blocks of Python print: the blocks of text."""
    return "".join(block.code for block in blocks(text) if block.language == "text")


def form_of(output: str) -> str:
    """Return an output without its digits, which differ between machines, and its spacing.

    Nor does it hold the counts of a stack's layers, which are shown where they differ.

    >>> form_of("loss   0.123\\n")
    'loss #'
    """
    output = re.sub(r" \([\d,]+ to [\d,]+ each\)", "", output)
    return " ".join(re.sub(r"\d[\d,.]*", "#", output).split())


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", text)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the shell commands of a page, in blocks and in the running text, as words."""
    for block in blocks(text):
        if block.language == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield words
    for code in re.findall(r"`(python -m [^`]+)`", prose(text)):
        yield shlex.split(code)


def flag_values(words: list[str]) -> dict[str, str]:
    """Return `name -> value` of the flags in a command's words."""
    given = (word.removeprefix("--").partition("=") for word in words if word[:2] == "--")
    return {name: value for name, _, value in given if name}


def config_of(flag: str, run: str = "") -> ConfigDict:
    """Return the config that a flag names, with the words of a sweep's run added."""
    file, _, argument = flag.partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    return module.get_config(",".join(filter(None, (argument, run))))


def sections(text: str, level: int) -> dict[str, str]:
    """Return `heading -> text` of the sections of a level, up to the next heading of that level."""
    parts = re.split(rf"^{'#' * level} (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text: str) -> list[list[str]]:
    """Return the rows of the first table of a text, its title row first."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [rows[0], *rows[2:]]
