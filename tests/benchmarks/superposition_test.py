import json

import pytest

from benchmarks import superposition


def test_superposition_benchmark_prints_and_writes(tmp_path, capsys):
    output = tmp_path / "superposition.json"
    superposition.main(["--toy", "--output", str(output)])
    written = json.loads(output.read_text())
    cases = [f"{number} tickets at {sparsity} %" for sparsity in (90, 95) for number in (2, 4)]
    assert list(written["seconds"]) == cases
    for case, taken in written["seconds"].items():
        for copy in (superposition.NUMPY_COPY, superposition.JNP_COPY):
            expected = taken[superposition.OURS]["median"] / taken[copy]["median"]
            assert written["ratios"][f"{case}, times a {copy}"] == pytest.approx(expected)
    assert written["spreads"].keys() == written["ratios"].keys()
    assert written["seconds_of_a_fold"]["selection"]["median"] > 0
    assert written["added_bytes"]["2"] >= 0
    assert capsys.readouterr().out.count("| 4 tickets at") == 2


def test_tickets_have_their_sparsity():
    ticket = superposition.make_ticket(0, 0.9, toy=True)
    assert superposition.supjax.density(ticket.masks) == pytest.approx(0.1, abs=0.04)
    assert superposition.supjax.density(ticket.params) == superposition.supjax.density(ticket.masks)
