"""Printing that never fails the work, with real streams and real ends of processes."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from experiments.command_line import say

FULL = "/dev/full"


class Stream(io.TextIOWrapper):
    """Standard output with an encoding."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding, write_through=False)

    @property
    def written(self):
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("utf-8", "+0.39 ± 0.27 é 漢", "+0.39 ± 0.27 é 漢"),
        ("ascii", "+0.39 ± 0.27", "+0.39 +- 0.27"),
        ("ascii", "runs/é/漢", r"runs/\xe9/\u6f22"),
        ("latin-1", "± é", "± é"),
        ("latin-1", "± 漢", r"+- \u6f22"),
        ("cp437", "± 漢", r"+- \u6f22"),
        ("utf-8", os.fsdecode(b"runs/\xff"), r"runs/\udcff"),  # a name that is no text
        ("utf-16", "±", "±"),
    ],
)
def test_every_encoding_shows_every_text(monkeypatch, encoding, text, shown):
    stream = Stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    say(text)
    assert stream.written == f"{shown}\n"


def test_a_line_is_out_when_the_call_returns(capfd):
    say("one\ntwo")
    say("three", to_stderr=True)
    assert capfd.readouterr() == ("one\ntwo\n", "three\n")


def closed():
    stream = Stream("utf-8")
    stream.close()
    return stream


class Broken(Stream):
    """A stream without a file descriptor whose writes fail."""

    def __init__(self, error):
        super().__init__("utf-8")
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: None, ""),
        (closed, "output is not shown: I/O operation on closed file.\n"),
        (lambda: Broken(BrokenPipeError(32, "Broken pipe")), ""),
        (lambda: Broken(OSError(28, "No space left")), "output is not shown: No space left\n"),
        (lambda: Broken(OSError("odd")), "output is not shown: odd\n"),
    ],
)
def test_a_stream_that_fails_costs_a_line_at_most(monkeypatch, capsys, make, complaint):
    monkeypatch.setattr(sys, "stdout", make())
    say("text")
    assert capsys.readouterr().err == complaint


@pytest.mark.parametrize("make", [lambda: None, closed, lambda: Broken(OSError("odd"))])
def test_where_complaints_fail_too_nothing_is_raised(monkeypatch, make):
    monkeypatch.setattr(sys, "stdout", closed())
    monkeypatch.setattr(sys, "stderr", make())
    say("text")
    say("text", to_stderr=True)


PROGRAM = """
from experiments.command_line import say
for i in range(20_000):
    say(f"line {i}")
open("done", "w").close()
"""


@pytest.mark.skipif(not os.path.exists(FULL), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("ending", "complaint"),
    [
        ("| head -1", ""),
        (f"> {FULL}", "output is not shown: No space left on device\n"),
        (f"> {FULL} 2>&1", ""),
        (">&-", ""),
    ],
)
def test_a_command_ends_well_however_its_output_ends(tmp_path, ending, complaint):
    pipeline = f"set -o pipefail; '{sys.executable}' -c '{PROGRAM}' {ending}"
    found = subprocess.run(
        ["bash", "-c", pipeline],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (0, complaint)
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    "command", ["report", "sweep", "evaluate", "analyse", "seeds", "command_line", "run/finish"]
)
def test_a_command_prints_in_no_other_way(command):
    source = (Path(experiments.__file__).parent / f"{command}.py").read_text()
    called = {node.func.id for node in ast.walk(ast.parse(source)) if is_plain_call(node)}
    assert "say" in called
    assert "print" not in called


def is_plain_call(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
