"""The progress bar: what it says, how often, and that it stays within a terminal's width."""

import io
import re
import sys

import pytest

from experiments.records.progress import Progress

FIELDS = {"learning_rate": 0.1, "loss": 1.25, "accuracy": 0.9312, "density": 0.05}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def terminal(monkeypatch):
    """A colour terminal of 80 columns."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


def make(clock, file, total=1000, start=0, **settings):
    return Progress(
        total,
        start_step=start,
        steps_per_epoch=100,
        batch_size=8,
        file=file,
        clock=clock,
        **settings,
    )


def lines(file):
    return file.getvalue().splitlines()


def drawn(file):
    """What stood on the terminal's lines, without control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue()).replace("\r", "\n").split("\n")


def test_plain_lines_come_at_most_every_ten_seconds(clock):
    file = io.StringIO()
    with make(clock, file) as bar:
        for step in range(0, 1001, 10):
            clock.now = step / 20
            bar.update(step, phase="normal", **FIELDS)
    assert [line.split()[2] for line in lines(file)] == [
        f"{epoch:.1f}/10" for epoch in (0, 2, 4, 6, 8, 10)
    ]
    assert lines(file)[2] == (
        "normal  epoch 4.0/10   40 %  0:00:30 left  "
        "lr 0.1  loss 1.2500  acc 93.12 %  density 5.00 %  160 images/s"
    )
    assert lines(file)[-1].startswith("normal  epoch 10.0/10  100 %  0:00:00 left")


def test_events_come_at_once_and_an_interrupted_run_shows_its_last_step(clock):
    file = io.StringIO()
    with pytest.raises(KeyboardInterrupt), make(clock, file) as bar:  # noqa: PT012
        bar.update(10, phase="normal")
        bar.log("ticket 1: validation accuracy 93.10 %")
        bar.update(20)
        bar.update(30, loss=float("nan"))
        raise KeyboardInterrupt
    assert lines(file) == [
        "normal  epoch 0.1/10    1 %",
        "ticket 1: validation accuracy 93.10 %",
        "normal  epoch 0.3/10    3 %  loss nan",
    ]


def test_nearly_done_is_not_done(clock):
    file = io.StringIO()
    with make(clock, file) as bar:
        bar.update(999)
    assert " 99 %" in lines(file)[0]


def test_the_speed_leaves_out_compilation_and_earlier_parts_of_the_run(clock):
    bar = make(clock, io.StringIO(), start=500)
    bar.update(500)
    clock.now = 100
    bar.update(501)
    assert bar.images_per_second is None
    clock.now = 101
    bar.update(511)
    assert bar.images_per_second == pytest.approx(80)


def test_the_speed_is_that_of_the_last_half_minute(clock):
    bar = make(clock, io.StringIO(), total=10_000)
    for second in range(100):
        clock.now = second
        bar.update(1 + 2 * second if second < 50 else 4 * second)
    assert bar.images_per_second == pytest.approx(32)


@pytest.mark.parametrize(("given", "shown"), [(0.0, ""), (1234.5, "  1,234 images/s")])
def test_a_given_speed_is_shown_until_the_bar_has_its_own(clock, given, shown):
    file = io.StringIO()
    with make(clock, file) as bar:
        bar.update(10, images_per_second=given)
        clock.now = 10
        bar.update(20, images_per_second=given)
    assert lines(file) == [
        f"start  epoch 0.1/10    1 %{shown}",
        "start  epoch 0.2/10    2 %  0:16:20 left  8 images/s",
    ]


def test_silent_processes_write_nothing(clock, terminal):
    with make(clock, terminal, enabled=False) as bar:
        bar.update(1000, phase="normal", **FIELDS)
        bar.log("event")
    assert terminal.getvalue() == ""


def test_a_terminal_shows_two_lines_that_never_wrap(clock, terminal):
    with make(clock, terminal, total=97_750) as bar:
        for step in range(0, 97_751, 3910):
            clock.now += 100
            bar.update(step, phase="cycle 3", **FIELDS | {"learning_rate": 0.000812})
    found = drawn(terminal)
    assert max(len(line) for line in found) <= 80
    bar = re.compile(r"cycle 3  epoch 78\.2/977\.5 ━+[╸╺]━+ +8 %  0:38:20 left")
    assert any(bar.fullmatch(line) for line in found)
    numbers = "lr 0.000812  loss 1.2500  acc 93.12 %  density 5.00 %  313 images/s"
    assert numbers in [line.strip() for line in found]
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


@pytest.mark.parametrize("columns", [20, 40, 60])
def test_narrow_terminals_cut_lines(clock, terminal, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with make(clock, terminal) as bar:
        bar.update(500, phase="normal", **FIELDS)
    assert max(len(line) for line in drawn(terminal)) <= columns


def test_the_cursor_is_never_left_hidden(clock, terminal):
    with make(clock, terminal) as bar:
        bar.update(10)
        shown = terminal.getvalue()
        assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_a_terminal_is_redrawn_ten_times_a_second_at_most(clock, terminal):
    with make(clock, terminal) as bar:
        before = len(drawn(terminal))
        for step in range(500):
            clock.now = 1 + step / 1000
            bar.update(step)
        redraws = (len(drawn(terminal)) - before) / 3
    assert 3 <= redraws <= 8


def test_events_stand_above_the_bar_as_they_are(clock, terminal):
    with make(clock, terminal) as bar:
        bar.update(10, phase="normal")
        bar.log("ticket [1]: 93.10 %")
        clock.now = 1
        bar.update(20)
    found = [line.strip() for line in drawn(terminal)]
    assert found.count("ticket [1]: 93.10 %") == 1


def test_colour_is_left_out_on_request(clock, terminal, monkeypatch):
    for wanted in (True, False):
        with make(clock, terminal) as bar:
            bar.update(500)
        assert ("\x1b[38;5;" in terminal.getvalue()) == wanted
        terminal.truncate(0)
        monkeypatch.setenv("NO_COLOR", "1")


def test_a_dumb_terminal_gets_plain_lines(clock, terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with make(clock, terminal) as bar:
        bar.update(10, phase="normal")
    assert terminal.getvalue() == "normal  epoch 0.1/10    1 %\n"


def test_standard_error_is_the_default(capsys):
    with Progress(10, start_step=0, steps_per_epoch=5, batch_size=1) as bar:
        bar.update(10, phase="normal")
    assert capsys.readouterr().err == "normal  epoch 2.0/2  100 %\n"
    assert not sys.stderr.isatty()
