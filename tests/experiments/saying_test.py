"""Printing that never fails the work, with real streams and real ends of processes."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from experiments.records.progress import Progress
from experiments.records.summary import render_table
from experiments.saying import say

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
from experiments.saying import say
for i in range(20_000):
    say(f"line {i}")
open("done", "w").close()
"""


PRINTING = """
import sys, tqdm, warnings
from experiments.saying import forgiving_streams, occupy_standard_streams
occupy_standard_streams()
with forgiving_streams():
    for i in tqdm.tqdm(range(300), mininterval=0):
        print("line", i)
    print("no line break", end="")
    warnings.warn("a warning")
    sys.stdout and sys.stdout.write("\u6f22")
open("done", "w").close()
"""
"""What libraries do, which do not know of `say`."""


@pytest.mark.skipif(not os.path.exists(FULL), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "ending", ["| head -1", f"> {FULL}", f"> {FULL} 2>&1", f"2> {FULL}", ">&-", "2>&-", ">&- 2>&-"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_libraries_print_costs_nothing_either(tmp_path, ending, encoding):
    pipeline = f"set -o pipefail; '{sys.executable}' -c '{PRINTING}' {ending}"
    environment = {"PYTHONPATH": os.getcwd(), "PYTHONIOENCODING": encoding}
    found = subprocess.run(
        ["bash", "-c", pipeline],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
    )
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "done").exists()
    assert found.stderr.count("not shown") == (ending == f"> {FULL}")
    assert "Exception ignored" not in found.stderr


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


PACKAGE = Path(experiments.__file__).parent


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_nothing_prints_in_another_way(path):
    called = {node.func.id for node in ast.walk(ast.parse(path.read_text())) if is_plain_call(node)}
    assert "print" not in called


def is_plain_call(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("make", [lambda: None, closed, lambda: Broken(OSError(5, "I/O error"))])
def test_a_bar_whose_terminal_is_gone_lets_the_run_go_on(monkeypatch, make, terminal):
    stream = make()
    monkeypatch.setattr(sys, "stderr", stream)
    if terminal and isinstance(stream, Broken):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with Progress(2, start_step=0, steps_per_epoch=1, batch_size=1) as bar:
        bar.update(1, loss=1.0)
        bar.log("a line")
        bar.update(2, loss=1.0)


@pytest.mark.parametrize("stream", [None, closed()])
def test_a_table_is_drawn_without_an_output(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    network = {"name": "superposed", "kind": "superposed", "density": 0.5}
    assert "superposed" in render_table({"networks": [network], "result": "superposed"})
