"""Every list in an error's message is cut at one place, `supjax.checks.some` and `listed`."""

import ast
from pathlib import Path

import pytest

from supjax.checks import listed, some

ROOT = Path(__file__).parents[1]
MODULES = [*(ROOT / "supjax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]

ON_LINES = {"records/folder.py", "train.py"}
"""Where a message has a line for each field or seed of one run."""


def whole_lists(source):
    """Lines of errors whose message joins or prints a list, however long."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        for part in ast.walk(node.exc):
            name = part.func if isinstance(part, ast.Call) else None
            joins = isinstance(name, ast.Attribute) and name.attr == "join"
            printed = (
                isinstance(part, ast.FormattedValue)
                and isinstance(part.value, ast.Call)
                and isinstance(part.value.func, ast.Name)
                and part.value.func.id in ("list", "sorted", "set")
            )
            if joins or printed:
                yield part.lineno


def test_whole_lists_in_messages_are_found():
    source = "raise ValueError(f\"{', '.join(x)}\")\nraise ValueError(f'{sorted(x)}')\nraise Y"
    assert list(whole_lists(source)) == [1, 2]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_error_prints_a_list_of_any_length(path):
    if path.relative_to(ROOT).as_posix().removeprefix("experiments/") not in ON_LINES:
        assert not list(whole_lists(path.read_text()))


def test_a_list_of_any_length_is_a_short_text():
    assert len(some("x" * 10**4 for _ in range(10**4))) < 1000
    assert len(listed("x" * 10**4 for _ in range(10**4))) < 1000
    assert some(range(65)) == "0, 1, 2, 3, 4, 5, 6, 7 and 57 more"
