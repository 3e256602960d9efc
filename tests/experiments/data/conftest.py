"""Tiny sets in TFDS's own format, written through the code that users run."""

import numpy as np
import pytest
from PIL import Image

from experiments.data.importing import array_source, read_source, write_tfds
from tests.helpers.tiny_sets import NUM_CLASSES, Tiny, encode, make_arrays, smooth_image


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A small RGB set of an odd size in three shards a split."""
    data_dir = tmp_path_factory.mktemp("tiny")
    train, test = make_arrays()
    source = array_source({"train": train, "test": test}, num_classes=NUM_CLASSES)
    write_tfds("tiny_rgb", source, data_dir, num_shards=3)
    return Tiny("tiny_rgb", data_dir, train, test)


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory):
    """`train/<class>/<image>` and `val/<class>/<image>` with images of all kinds and sizes."""
    folder = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(1)
    for split, count in (("train", 23), ("val", 7)):
        for index in range(count):
            place = folder / split / f"class_{index % 3}"
            place.mkdir(parents=True, exist_ok=True)
            height, width = (int(side) for side in rng.integers(20, 90, 2))
            image = smooth_image(rng, height, width, channels=1 if index == 4 else 3)
            data = encode(image)
            if index == 5:
                data = encode(Image.fromarray(image).convert("CMYK"))
            if index == 6:
                data = encode(image, "PNG")
            (place / f"{split}_{index:02d}.JPEG").write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def tiny_folders(class_folders, tmp_path_factory):
    """The same images as a prepared set, in several shards."""
    data_dir = tmp_path_factory.mktemp("tiny_folders")
    write_tfds("tiny_folders", read_source(class_folders), data_dir, num_shards=2)
    return data_dir
