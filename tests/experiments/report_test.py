"""The report as text, CSV, JSON and files."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import report
from experiments.errors import RunError
from experiments.report import NUMERIC_COLUMNS, find_runs, markdown, numeric_row, row, write_report
from experiments.study.statistics import collect
from tests.helpers.report_runs import pair, published, summary, write

ROOT = Path(__file__).parents[2]


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    names, _, *lines = ([part.strip() for part in line.strip("|").split("|")] for line in lines)
    return [dict(zip(names, line, strict=True)) for line in lines]


def test_a_row_by_hand():
    # As in the statistics: gains 1, 0.5, 1.5.
    runs = [*pair("", 0, 90, 91), *pair("", 1, 91, 91.5), *pair("", 2, 92, 93.5)]
    [setting] = collect(runs)
    [shown] = rows(markdown([setting], []))
    assert shown == {
        "dataset": "digits",
        "model": "digits_cnn",
        "epochs": "40",
        "method": "rigl",
        "sparsity": "0.9",
        "base": "91.00 ± 1.00 (3)",
        "tickets": "90.00 ± 1.32 (3)",
        "last ticket": "89.00 ± 1.32 (3)",
        "base + Sup": "92.00 ± 1.32 (3)",
        "ensemble": "93.00 ± 1.32 (3)",
        "difference": "+1.00 ± 1.24",
        "p": "0.074",
        "averaging": "+3.00 ± -",
        "published": "-",
    }


def test_a_narrow_network_is_called_so():
    [setting] = collect(pair("width=0.5", 0, 90, 91))
    assert row(setting)["model"] == "digits_cnn x0.5"
    assert (numeric_row(setting)["model"], numeric_row(setting)["width"]) == ("digits_cnn", 0.5)


def test_published_numbers_stand_beside():
    [setting] = collect(published("method=set", 0, 93, 94))
    assert row(setting)["published"] == "92.96 -> 93.22"
    found = numeric_row(setting)
    assert (found["published_base"], found["published_base_sup"]) == (92.96, 93.22)


def test_a_number_that_was_not_published_is_unknown():
    [setting] = collect(published("method=dense", 0, 93, 94))
    assert row(setting)["published"] == "93.91 -> -"
    assert numeric_row(setting)["published_base_sup"] is None


# Gains of two seeds, and p from Student's t with one degree of freedom, 1 - 2 / pi * atan(t).
@pytest.mark.parametrize(
    ("gains", "difference", "p"),
    [
        ((1, 1), "+1.00 ± -", "-"),
        ((0, 0), "+0.00 ± -", "-"),
        ((1, 1.5), "+1.25 ± 3.18", "0.126"),
        ((1, 1.001), "+1.00 ± 0.01", "< 0.001"),
        ((1, 1.0031), "+1.00 ± 0.02", "< 0.001"),
        ((1, 1.0032), "+1.00 ± 0.02", "0.001"),
    ],
)
def test_interval_and_p_as_text(gains, difference, p):
    [setting] = collect([run for i, gain in enumerate(gains) for run in pair("", i, 90, 90 + gain)])
    assert (row(setting)["difference"], row(setting)["p"]) == (difference, p)


def test_variants_have_a_column_when_there_are_any():
    settings = collect([summary(f"average={a}", {"superposed": [90]}) for a in ("cia", "caa")])
    assert [shown["variant"] for shown in rows(markdown(settings, []))] == [
        "average=caa",
        "average=cia",
    ]


def test_a_whole_sweep_is_not_called_partial():
    settings = collect([*pair("", 0, 90, 91), *pair("method=set", 0, 90, 91)])
    assert "Partial" not in markdown(settings, [])


@pytest.fixture
def sweep(tmp_path):
    """Two seeds of two methods: three runs finished, two not, three never started."""
    base, sup = pair("", 0, 90, 91)
    write(tmp_path / "sweep" / "a", base)
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
    assert "**Partial:** 2 runs are unfinished; 1 of\n1 settings lack" in text
    [shown] = rows(text)
    assert shown["base"] == "91.00 ± 1.41 (2)"
    assert shown["base + Sup"] == "91.00 ± - (1)"
    assert shown["difference"] == shown["p"] == "-"


def test_a_summary_that_was_cut_short_is_an_unfinished_run(sweep):
    (sweep / "a" / "summary.json").write_text('{"result":')
    assert [path.name for path in find_runs([sweep])[1]] == ["a", "d", "e"]


def test_all_files_hold_the_same_settings(sweep, tmp_path):
    (sweep / "d" / "summary.json").write_text(json.dumps(pair("", 1, 92, 93.5)[1]))
    out = tmp_path / "out"
    text = write_report([sweep], out)
    assert (out / "report.md").read_text() == text
    assert rows(text)[0]["difference"] == "+1.25 ± 3.18"  # gains 1 and 1.5; 12.706 * 0.25
    with (out / "report.csv").open(newline="") as file:
        [line] = csv.DictReader(file)
    assert tuple(line) == NUMERIC_COLUMNS
    [setting] = json.loads((out / "report.json").read_text())
    assert setting["key"]["method"] == line["method"] == "rigl"
    assert setting["base"] == pytest.approx({"0": 90, "1": 92})
    assert setting["paired"]["seeds"] == int(line["difference_seeds"]) == 2
    for found in (setting["paired"]["half_width"], float(line["difference_half_width"])):
        assert found == pytest.approx(12.706 * 0.25, rel=1e-4)
    assert {path.name for path in out.iterdir()} == {
        "report.md",
        "report.csv",
        "report.json",
        "accuracy.png",
        "gain.png",
    }


def test_the_columns_of_a_table_for_programs_are_numbers_or_empty(sweep, tmp_path):
    write_report([sweep], tmp_path)
    [line] = csv.DictReader((tmp_path / "report.csv").read_text().splitlines())
    assert line["variant"] == ""
    numbers = {k: v for k, v in line.items() if k not in ("dataset", "model", "method", "variant")}
    found = {name: float(text) for name, text in numbers.items() if text}
    assert found == pytest.approx(
        {
            **{"width": 1, "epochs": 40, "sparsity": 0.9},
            **{"base_mean": 91, "base_deviation": 2**0.5, "base_seeds": 2},
            **{"tickets_mean": 89, "tickets_seeds": 1},  # of a single seed no deviation is known
            **{"last_ticket_mean": 88, "last_ticket_seeds": 1},
            **{"base_sup_mean": 91, "base_sup_seeds": 1},
            **{"ensemble_mean": 92, "ensemble_seeds": 1},
            **{"base_ema_seeds": 0, "ema_seeds": 0, "tail_seeds": 0},
        }
    )
    unknown = {"difference", "difference_half_width", "difference_seeds", "p", "published_base"}
    assert unknown < numbers.keys() - found.keys()


def test_what_a_running_sweep_removes_meanwhile_is_no_mistake(sweep, monkeypatch):
    walk = os.walk

    def racing(folder):
        for found in walk(folder):
            shutil.rmtree(sweep / "deep", ignore_errors=True)
            yield found

    monkeypatch.setattr("experiments.study.finding.os.walk", racing)
    summaries, unfinished = find_runs([sweep])
    assert len(summaries) == 3
    assert [path.name for path in unfinished] == ["d"]


def test_without_a_pair_of_seeds_there_is_no_picture_of_gains(sweep, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gain.png").touch()  # of an earlier report
    write_report([sweep], tmp_path / "out")
    assert not (tmp_path / "out" / "gain.png").exists()


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(RunError, match=r"no finished run below .*empty"):
        write_report([tmp_path / "empty"], tmp_path / "out")


def test_a_report_that_nobody_can_read_is_written(sweep, tmp_path):
    out = tmp_path / "out"
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "experiments.report", sweep, f"--out={out}"]
        done = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert done.stderr == "output is not shown: No space left on device\n"
    assert {"report.md", "accuracy.png"} <= {path.name for path in out.iterdir()}


def with_averages(words, seed):
    """Runs of a seed with averages of the weights, and the two without."""
    base, sup = pair(words, seed, 90, 91)
    base["networks"].insert(0, {"name": "e", "kind": "ema", "test": {"accuracy": 0.905}})
    for kind, value in {"ema": 0.915, "tail": 0.92}.items():
        sup["networks"].insert(0, {"name": kind, "kind": kind, "test": {"accuracy": value}})
        sup["config"]["baselines"][kind] = kind == "tail" or 0.9
    return [base, sup]


def test_averages_of_the_weights_have_columns_where_there_are_any():
    [setting] = collect([*with_averages("", 0), *pair("", 1, 91, 92)])
    text = markdown([setting], [])
    [shown] = rows(text)
    found = [shown[name] for name in ("base EMA", "EMA", "tail")]
    assert found == ["90.50 ± - (1)", "91.50 ± - (1)", "92.00 ± - (1)"]
    assert "`tail`: the mean of the weights of the last cycle" in text
    assert numeric_row(setting)["tail_mean"] == 92
    assert shown["base"] == "90.50 ± 0.71 (2)"
    [plain] = rows(markdown(collect(pair("", 0, 90, 91)), []))
    assert not {"base EMA", "EMA", "tail"} & plain.keys()


def started(seed, density):
    """A run of the cycles alone, on a file of its seed, and the base beside it."""
    base, sup = pair("", seed, 90, 91)
    sup["config"]["sup_tickets"]["start_from"] = f"runs/{seed}"
    sup["start_from"] = {"path": f"runs/{seed}", "density": density, "extra_epochs": 12.0}
    return [base, sup]


def test_runs_of_the_cycles_alone_are_called_extra_and_paired_by_seed():
    [setting] = collect([*started(0, 0.1), *started(1, 0.1)])
    assert setting.key.variant == "start_from=12 epochs extra"
    assert (set(setting.base), set(setting.sup)) == ({0, 1}, {0, 1})
    assert "beyond its budget" in markdown([setting], [])
    apart = collect([*started(0, 0.1), *started(1, 0.2)])
    assert [(s.key.sparsity, set(s.sup)) for s in apart] == [(0.8, {1}), (0.9, {0})]


def test_summaries_from_before_a_field_existed_are_still_read():
    runs = [*pair("", 0, 90, 91), *pair("", 1, 90, 91)]
    for old in runs:
        del old["config"]["baselines"]
        for name in ("start_from", "continue_from"):
            del old["config"]["sup_tickets"][name]
    assert len(collect(runs)) == 1


DIAGNOSIS = {
    "distances": [0.1, 0.3],
    "disagreements": [0.01, 0.03],
    "barriers": [-0.01, 0.03],
    "norm_ratio": 0.9,
}


def test_averaging_itself_and_the_diagnosis_have_their_place(tmp_path):
    runs = [*pair("", 0, 90, 92), *pair("", 1, 91, 92.5), *pair("", 2, 91, 93)]
    for run, advice in zip(runs[1::2], ("raise high", "raise high", "nothing"), strict=True):
        run["diagnosis"] = {**DIAGNOSIS, "advice": advice}
    text = report.markdown(report.collect(runs), [])
    assert "| +3.00 ± - |" in text  # superposed minus the last ticket, in every seed
    assert "| 0.20 | 2.00 % | +0.0100 | 0.90 | raise high (2 of 3) |" in text
