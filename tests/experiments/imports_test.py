"""Who may import whom in `experiments`: a ladder, and above it commands that nobody imports."""

from pathlib import Path

import pytest

from tests.helpers.sources import imports

ROOT = Path(__file__).parents[2] / "experiments"

MAY_IMPORT = {
    "errors": "",
    "saying": "",
    "start_jax": "",
    "stopping": "",
    "paths": "errors",
    "data": "errors saying paths",
    "models": "errors",
    "configs": "errors paths data models",
    "checkpoints": "errors paths records",
    "records": "errors saying paths checkpoints",
    "run": "errors saying data models records",  # not configs: it gets a config that was checked
    "analysis": "errors configs records run",
    "study": "errors saying paths configs records run",
    "train": "errors stopping configs data records run",
    "command_line": "errors saying stopping configs",
}
"""What a package or module of the top floor imports of the others; the lowest first."""

MODULES = sorted(ROOT.rglob("*.py"))


def part(path):
    """The package or module of the top floor that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


COMMANDS = {part(path) for path in ROOT.glob("*.py") if "__main__" in path.read_text()}


def imported(path):
    """The parts of `experiments` that a file imports, also inside its functions."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("experiments.")}


def test_every_part_is_a_command_or_has_its_row():
    parts = {part(path) for path in MODULES} - {"__init__"}
    assert not COMMANDS & MAY_IMPORT.keys()
    assert parts == COMMANDS | MAY_IMPORT.keys()


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_part_imports_what_its_row_allows(name):
    allowed = {name, *MAY_IMPORT[name].split()}
    found = set()
    for path in MODULES:
        if part(path) == name:
            found |= imported(path)
            assert imported(path) <= allowed, path
    assert found | {name} == allowed, "the row allows what nobody needs"


def test_nobody_imports_a_command():
    for path in MODULES:
        assert not imported(path) & COMMANDS, path


def test_a_row_allows_parts_of_earlier_rows_alone():
    earlier = {"records"}  # on one rung with the checkpoints that they keep
    for name, row in MAY_IMPORT.items():
        assert set(row.split()) <= earlier, name
        earlier.add(name)
