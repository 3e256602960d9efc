import json

from benchmarks import sparsify_overhead
from benchmarks.sparsify_overhead import METHODS, OPTIMIZERS, PLAIN, WHOLE


def test_sparsify_overhead_benchmark_prints_and_writes(tmp_path, capsys):
    output = tmp_path / "sparsify_overhead.json"
    sparsify_overhead.main(["--toy", "--output", str(output)])
    written = json.loads(output.read_text())
    assert list(written["seconds"]) == list(OPTIMIZERS)
    steps = [step for method in METHODS for step in (method, f"{method}, with an update")]
    steps += [WHOLE, f"{WHOLE}, with a fold"]
    for name, taken in written["seconds"].items():
        assert list(taken) == [PLAIN, *steps]
        for step in steps:
            ratio = taken[step]["median"] / taken[PLAIN]["median"]
            assert written["ratios"][f"{name}, {step}"] == ratio
    for name in ("rigl", WHOLE):
        assert (
            written["ratios"][f"training step, {name} / dense"] == written["pairs"][name]["ratio"]
        )
    assert len(written["ratios"]) == len(OPTIMIZERS) * len(steps) + 2
    assert "| AdamW" in capsys.readouterr().out
