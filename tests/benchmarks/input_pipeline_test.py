import json

import numpy as np

from benchmarks import decoders, input_pipeline
from experiments.data.crops import Box
from tests.helpers.tiny_sets import encode, smooth_image


def test_all_contenders_make_nearly_the_same_images():
    files = [encode(smooth_image(np.random.default_rng(seed), 120, 160)) for seed in range(3)]
    boxes = [Box(0, 0, 120, 160), Box(16, 32, 64, 80), Box(8, 0, 112, 96)]
    images = {name: run() for name, run in decoders.prepare(files, boxes, 56).items()}
    assert {decoders.OURS, decoders.BASE, "OpenCV"} <= images.keys()
    expected = np.stack(images[decoders.BASE]).astype(float)
    for made in images.values():
        assert np.abs(np.stack(made) - expected).mean(axis=(1, 2, 3)).max() < 5


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
