import json

import numpy as np
import pytest
from tiny_sets import encode, smooth_image

from benchmarks import decoders, input_pipeline
from experiments.data.crops import Box


@pytest.mark.parametrize("name", [name for name in decoders.available() if name != decoders.BASE])
def test_all_contenders_make_nearly_the_same_images(name):
    files = [encode(smooth_image(np.random.default_rng(seed), 120, 160)) for seed in range(3)]
    boxes = [Box(0, 0, 120, 160), Box(16, 32, 64, 80), Box(8, 0, 112, 96)]
    contenders = decoders.available()
    expected = contenders[decoders.BASE](files, boxes, 56)
    for image, other in zip(contenders[name](files, boxes, 56), expected, strict=True):
        assert image.shape == (56, 56, 3)
        assert np.abs(image.astype(float) - other).mean() < 5


def test_the_benchmark_prints_and_writes(tmp_path, capsys):
    path = tmp_path / "results" / "input_pipeline.json"
    input_pipeline.main(["--toy", "--output", str(path)])
    written = json.loads(path.read_text())
    assert set(written["loading"]) == {decoders.OURS, decoders.BASE}
    assert written["decoding"][decoders.OURS]["core"] > 0
    assert input_pipeline.TRAIN_STEP in written["seconds"]
    printed = capsys.readouterr().out
    for title in ("Decoding:", "Loading with", "In-memory set:", "times Pillow"):
        assert title in printed
