"""The end of a run: a summary file that is always valid JSON, and a table that people can read."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.records.summary import read_summary, render_table, write_summary


def network(name, kind, validation=None, test=None, density=0.05):
    found = {"name": name, "kind": kind, "step": 10, "density": density}
    if validation is not None:
        found["validation"] = {"accuracy": validation, "loss": 0.3}
    if test is not None:
        found["test"] = {"accuracy": test, "loss": 0.25431}
    return found


def summarize(*networks, result=-1, **fields):
    return {
        "networks": list(networks),
        "result": networks[result]["name"],
        "exploration_rate": 0.4321,
        "flops": {"train_relative": 0.2312, "inference_relative": 0.0912, "dense_forward": 6.3e8},
        "wall_seconds": 3456.7,
        "images_per_second": 12345.6,
        "hardware": {"backend": "cpu", "device": "TFRT CPU", "devices": 2},
    } | fields


FULL = summarize(
    network("end of normal phase", "pretrained", 0.927, 0.9265),
    network("ticket 1", "ticket", 0.928, 0.928),
    network("superposed 0-1", "superposed", 0.93, 0.93),
    network("ticket 2", "ticket", 0.929, 0.9301),
    network("superposed 0-2", "superposed", 0.933, 0.932),
    network("ensemble of 2 tickets", "ensemble", 0.9331, 0.9335, None),
    result=4,
)


def test_the_table_of_a_whole_run():
    assert render_table(FULL, terminal=False).splitlines() == [
        "network                density  val. acc.  test acc.  test loss",
        "-----------------------------------------------------------------------",
        "end of normal phase     5.00 %    92.70 %    92.65 %     0.2543",
        "ticket 1                5.00 %    92.80 %    92.80 %     0.2543",
        "superposed 0-1          5.00 %    93.00 %    93.00 %     0.2543",
        "ticket 2                5.00 %    92.90 %    93.01 %     0.2543",
        "superposed 0-2          5.00 %    93.30 %    93.20 %     0.2543  result",
        "ensemble of 2 tickets        -    93.31 %    93.35 %     0.2543",
        "",
        "result (test)    +0.55 points against the end of the normal phase",
        "                 +0.30 points against the mean of 2 tickets",
        "                 -0.15 points against the ensemble of the tickets",
        "exploration R_s  43.21 % of the maskable weights were active at least once",
        "FLOPs            training 0.231, inference 0.091 of the dense network",
        "dense forward    630.00 MFLOPs an image",
        "time             0:57:37, 12,346 images/s on 2 x TFRT CPU",
    ]


def test_without_a_test_split_the_validation_split_is_compared():
    table = render_table(
        summarize(
            network("end of normal phase", "pretrained", 0.9),
            network("ticket 1", "ticket", 0.91),
            network("superposed 0-1", "superposed", 0.915),
        ),
        terminal=False,
    )
    assert "superposed 0-1        5.00 %    91.50 %          -          -  result" in table
    assert "result (validation)  +1.50 points against the end of the normal phase" in table
    assert "+0.50 points against the mean of 1 ticket\n" in table


def test_a_run_without_tickets_has_nothing_to_compare():
    table = render_table(summarize(network("final", "final", 0.9, 0.89)), terminal=False)
    assert "final     5.00 %    90.00 %    89.00 %     0.2543  result" in table
    assert "against" not in table


def test_missing_figures_are_dashes():
    lost = network("final", "final", float("nan"), None)
    table = render_table({"networks": [lost], "result": "final"}, terminal=False)
    assert "final     5.00 %          -          -          -  result" in table
    assert "time             -, - images/s\n" in table + "\n"
    assert "training -, inference - of the dense network" in table


def test_the_folder_of_the_run_is_listed(tmp_path):
    workdir = tmp_path / "run"
    (workdir / "plots").mkdir(parents=True)
    for name in ("summary.json", ".hidden"):
        (workdir / name).touch()
    last = render_table(FULL, workdir, terminal=False).splitlines()[-1]
    assert last.strip() == "plots/, summary.json"


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_a_terminal_is_filled_to_100_columns_at_most(monkeypatch, columns, tmp_path):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    long = summarize(network("superposed " + "0123456789" * 12, "superposed", 0.5, 0.5))
    table = render_table(long, tmp_path, terminal=True)
    assert max(map(len, table.splitlines())) <= min(columns, 100)
    assert max(map(len, render_table(long, tmp_path, terminal=False).splitlines())) <= 100


def test_a_terminal_shows_the_result_in_colour(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    (line,) = [line for line in render_table(FULL, terminal=True).splitlines() if "0-2" in line]
    assert "\x1b[1;32m" in line
    monkeypatch.setenv("NO_COLOR", "1")
    assert "32m" not in render_table(FULL, terminal=True)


def test_plain_text_is_ascii_and_the_default_without_a_terminal():
    table = render_table(FULL)
    assert table.isascii()
    assert "\x1b" not in table


def test_names_are_no_markup():
    table = render_table(summarize(network("[bold]x[/bold]", "final", 0.5)), terminal=False)
    assert "[bold]x[/bold]" in table


def test_a_summary_comes_back_as_it_was(tmp_path):
    path = write_summary(tmp_path, FULL)
    assert path == tmp_path / "summary.json"
    assert read_summary(tmp_path) == FULL
    assert list(read_summary(tmp_path)) == list(FULL)
    before = path.read_bytes()
    write_summary(tmp_path, read_summary(tmp_path))
    assert path.read_bytes() == before


def test_whatever_a_run_holds_becomes_json(tmp_path):
    write_summary(
        tmp_path,
        {
            "numbers": [np.float32(0.5), jnp.int32(3), np.arange(2), float("inf"), jnp.nan],
            "config": {"ramp": (0, 110), "seed": None, "on": True, "path": tmp_path, 1: "é"},
        },
    )

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "summary.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse) == {
        "numbers": [0.5, 3, [0, 1], None, None],
        "config": {"ramp": [0, 110], "seed": None, "on": True, "path": str(tmp_path), "1": "é"},
    }


def test_no_summary_before_the_end(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_summary(tmp_path)


def test_a_run_of_the_cycles_alone_says_so_and_averages_are_compared():
    table = render_table(
        summarize(
            network("superposed 0-1", "superposed", 0.9, 0.92),
            network("moving average", "ema", 0.9, 0.91),
            network("mean of the last cycle", "tail", 0.9, 0.925),
            result=0,
            start_from={"path": "runs/base", "density": 0.05, "extra_epochs": 12.0},
        ),
        terminal=False,
    )
    assert "started from     runs/base; 12 epochs extra\n" in table
    assert "+1.00 points against the moving average of the weights\n" in table
    assert "-0.50 points against the mean of the last cycle\n" in table
