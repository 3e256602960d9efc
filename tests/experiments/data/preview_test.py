import numpy as np
from PIL import Image

from experiments.data import load_dataset
from experiments.data.preview import EPOCHS, ROWS, augmented, draw


def test_a_picture_of_an_in_memory_set(tmp_path):
    data = load_dataset("digits")
    images = augmented(data)
    assert images.shape == (ROWS, 1 + EPOCHS, 8, 8, 1)
    np.testing.assert_array_equal(images[:, 0], data.train.images[:ROWS])
    assert (images[:, 1:] != images[:, :1]).any(axis=(1, 2, 3, 4)).all()
    path = draw(data, tmp_path / "new" / "digits.png")
    with Image.open(path) as picture:
        assert min(picture.size) > 400
    assert path.stat().st_size < 200_000


def test_a_picture_of_a_streamed_set(tiny_folders, tmp_path):
    data = load_dataset("tiny_folders", tiny_folders, image_size=24)
    assert augmented(data).shape == (ROWS, 1 + EPOCHS, 24, 24, 3)
    assert draw(data, tmp_path / "folders.png").exists()
