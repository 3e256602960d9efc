"""A short fuzz of every class that has none beside its own code, and what the command prints."""

import contextlib
import sys

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz.classes import CLASSES
from tests.fuzz.judging import Outcome

SHORT = {
    "checkpoints": 8,
    "config values": 60,
    "command lines": 12,
    "PyTorch files": 40,
    "odd tickets, scored": 8,
    "odd tickets, started": 8,
}
"""Tries of each class in the suite; ticket files and data sets are fuzzed beside their readers."""


@pytest.mark.parametrize("name", SHORT)
def test_a_short_fuzz_finds_nothing(name):
    said = []
    table = command.fuzz(14, tries=SHORT[name], only=[name], show=said.append)
    assert not said
    assert table == {name: {"clean": SHORT[name]}}


def test_every_class_is_fuzzed_by_the_suite():
    assert CLASSES.keys() == SHORT.keys() | {"ticket files", "data sets"}


def test_a_bad_try_is_shown_counted_and_can_be_made_again(monkeypatch, capsys):
    @contextlib.contextmanager
    def careless(folder):
        def attempt(number, rng):
            if number == 3:
                raise KeyError("as code that looks at nothing")
            return Outcome(number != 5, f"drew {rng.random()}")

        yield attempt

    monkeypatch.setitem(CLASSES, "PyTorch files", careless)
    monkeypatch.setattr(sys, "argv", ["fuzz", "--tries=6", "--seed=7", "--only=PyTorch files"])
    assert command.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("bad: seed 7, PyTorch files, try 3: KeyError: ")
    assert lines[1].startswith("bad: seed 7, PyTorch files, try 5: drew ")
    assert lines[2].split() == ["class", "tries", "clean", "bad"]
    assert lines[4].split() == ["all", "6", "4", "2"]
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--first=5"])
    assert command.main() == 1
    assert capsys.readouterr().out.splitlines()[0] == lines[1]
