import json
import math

import pytest

from benchmarks import growth
from benchmarks.shapes import resnet50_kernels


@pytest.mark.parametrize("millions", growth.SIZES)
def test_shapes_are_those_of_resnet50_scaled_to_a_number_of_weights(millions):
    shapes = growth.scaled_shapes(1e6 * millions)
    assert sum(map(math.prod, shapes.values())) == pytest.approx(1e6 * millions, rel=0.05)
    kernels = set(resnet50_kernels().values())
    assert sorted(shape[:-2] for shape in shapes.values()) == sorted(s[:-2] for s in kernels)


def test_growth_benchmark_prints_and_writes(tmp_path, capsys):
    output = tmp_path / "growth.json"
    growth.main(["--toy", "--output", str(output)])
    written = json.loads(output.read_text())
    small, large = written["seconds"]
    for name in (growth.UPDATE, growth.SUPERPOSITION):
        first, second = (written["seconds"][size][name]["median"] for size in (small, large))
        exponent = math.log(second / first) / math.log(int(large) / int(small))
        assert written["exponents"][f"{name}, all sizes"] == pytest.approx(exponent)
        assert written["exponents"][f"{name}, large sizes"] == pytest.approx(exponent)
        [ratio] = [value for key, value in written["ratios"].items() if key.startswith(name)]
        assert ratio == pytest.approx(second / int(large) / (first / int(small)))
    assert f"| {int(large):,} " in capsys.readouterr().out
