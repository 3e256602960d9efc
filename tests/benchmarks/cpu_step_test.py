import json
import math

from benchmarks import cpu_step


def test_cpu_step_benchmark_prints_and_writes(tmp_path, capsys):
    output = tmp_path / "cpu_step.json"
    cpu_step.main(["--toy", "--output", str(output)])
    written = json.loads(output.read_text())
    step = written["steps"]["resnet20"]
    assert step["pairs"] >= 3
    for form in ("maximum", "selection"):
        assert step[form]["seconds"] > 0
        assert step[form]["processor_seconds"] > 0
    assert written["ratios"] == {
        f"resnet20, {field}": ratio for field, ratio in step["ratios"].items()
    }
    assert all(ratio > 0 and math.isfinite(ratio) for ratio in written["ratios"].values())
    assert list(written["operation_seconds"]) == ["32 x 32 x 16", "16 x 16 x 32", "8 x 8 x 64"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 * 2 + 1 + 3


def test_the_switch_reaches_the_compiled_step():
    training = cpu_step.Training("resnet20", 10, 32, 2, width=0.125)
    maxima = [
        cpu_step.training_loop(training, form).compiled.as_text().count(" maximum(")
        for form in (cpu_step.MAXIMUM, cpu_step.SELECTION)
    ]
    assert maxima[0] > maxima[1]
