"""The report as text, CSV, JSON and files."""

import csv
import json

import pytest

from experiments.errors import RunError
from experiments.report import COLUMNS, find_runs, markdown, row, write_report
from experiments.study.statistics import collect
from tests.helpers.report_runs import pair, published, summary, write


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    names, _, *cells = ([part.strip() for part in line.strip("|").split("|")] for line in lines)
    return [dict(zip(names, cell, strict=True)) for cell in cells]


def test_a_row_by_hand():
    # As in the statistics: gains 1, 0.5, 1.5.
    runs = [*pair("", 0, 90, 91), *pair("", 1, 91, 91.5), *pair("", 2, 92, 93.5)]
    [cell] = collect(runs)
    [shown] = rows(markdown([cell], []))
    assert shown == {
        "dataset": "digits",
        "model": "digits_cnn",
        "epochs": "40",
        "method": "rigl",
        "sparsity": "0.9",
        "host": "91.00 ± 1.00 (3)",
        "tickets": "90.00 ± 1.32 (3)",
        "host + Sup": "92.00 ± 1.32 (3)",
        "ensemble": "93.00 ± 1.32 (3)",
        "difference": "+1.00 ± 1.24",
        "p": "0.074",
        "published": "-",
    }


def test_a_narrow_network_is_called_so():
    [cell] = collect(pair("width=0.5", 0, 90, 91))
    assert row(cell)["model"] == "digits_cnn x0.5"


def test_published_numbers_stand_beside():
    [cell] = collect(published("method=set", 0, 93, 94))
    assert row(cell)["published"] == "92.96 -> 93.22"


def test_variants_have_a_column_when_there_are_any():
    cells = collect([summary(f"average={a}", {"superposed": [90]}) for a in ("cia", "caa")])
    assert [shown["variant"] for shown in rows(markdown(cells, []))] == [
        "average=caa",
        "average=cia",
    ]


def test_a_whole_sweep_is_not_called_partial():
    cells = collect([*pair("", 0, 90, 91), *pair("method=set", 0, 90, 91)])
    assert "Partial" not in markdown(cells, [])


@pytest.fixture
def sweep(tmp_path):
    """Two seeds of two methods: three runs finished, two not, three never started."""
    host, sup = pair("", 0, 90, 91)
    write(tmp_path / "sweep" / "a", host)
    write(tmp_path / "sweep" / "b", sup)
    write(tmp_path / "sweep" / "c", pair("", 1, 92, 93)[0])
    write(tmp_path / "sweep" / "d", pair("", 1, 92, 93)[1], finished=False)
    write(tmp_path / "sweep" / "deep" / "e", pair("method=set", 0, 90, 91)[0], finished=False)
    return tmp_path / "sweep"


def test_a_partial_sweep_gives_a_partial_table_that_says_so(sweep):
    summaries, unfinished = find_runs([sweep])
    assert [run["config"]["seed"] for run in summaries] == [0, 0, 1]
    assert [path.name for path in unfinished] == ["d", "e"]
    text = markdown(collect(summaries), unfinished)
    assert "**Partial:** 2 runs are unfinished; 1 of\n1 cells lack" in text
    [shown] = rows(text)
    assert shown["host"] == "91.00 ± 1.41 (2)"
    assert shown["host + Sup"] == "91.00 ± 0.00 (1)"
    assert shown["difference"] == shown["p"] == "-"


def test_a_summary_that_was_cut_short_is_an_unfinished_run(sweep):
    (sweep / "a" / "summary.json").write_text('{"result":')
    assert [path.name for path in find_runs([sweep])[1]] == ["a", "d", "e"]


def test_all_files_hold_the_same_cells(sweep, tmp_path):
    (sweep / "d" / "summary.json").write_text(json.dumps(pair("", 1, 92, 93.5)[1]))
    out = tmp_path / "out"
    text = write_report([sweep], out)
    assert (out / "report.md").read_text() == text
    with (out / "report.csv").open(newline="") as file:
        [line] = csv.DictReader(file)
    assert tuple(line) == COLUMNS
    assert line["difference"] == "+1.25 ± 3.18"  # gains 1 and 1.5; 12.706 * 0.25
    [cell] = json.loads((out / "report.json").read_text())
    assert cell["key"]["method"] == "rigl"
    assert cell["host"] == pytest.approx({"0": 90, "1": 92})
    assert cell["paired"]["seeds"] == 2
    assert cell["paired"]["half_width"] == pytest.approx(12.706 * 0.25, rel=1e-4)
    assert {path.name for path in out.iterdir()} == {
        "report.md",
        "report.csv",
        "report.json",
        "accuracy.png",
        "gain.png",
    }


def test_without_a_pair_of_seeds_there_is_no_picture_of_gains(sweep, tmp_path):
    write_report([sweep], tmp_path / "out")
    assert not (tmp_path / "out" / "gain.png").exists()


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(RunError, match=r"no finished run below .*empty"):
        write_report([tmp_path / "empty"], tmp_path / "out")
