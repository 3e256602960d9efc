import sys

import numpy as np
import pytest
from sklearn import datasets

from experiments.data import load_dataset
from experiments.data.digits import load_digits


def test_every_digit_is_in_one_split_with_its_label():
    splits = load_digits().splits
    original = datasets.load_digits()
    assert {name: split.size for name, split in splits.items()} == {"train": 1442, "test": 355}
    images = np.concatenate([splits["train"].images, splits["test"].images])
    labels = np.concatenate([splits["train"].labels, splits["test"].labels])
    given = np.rint(original.images * 255 / 16).astype(np.uint8)[..., None]

    def rows(images, labels):
        return sorted(
            (*image.ravel().tolist(), int(label))
            for image, label in zip(images, labels, strict=True)
        )

    assert rows(images, labels) == rows(given, original.target)


def test_the_test_split_has_every_class_in_proportion():
    splits = load_digits().splits
    shares = np.bincount(splits["test"].labels) / np.bincount(splits["train"].labels)
    np.testing.assert_allclose(shares, 0.25, atol=0.01)


def test_digits_need_neither_tfds_nor_decoders_nor_files(monkeypatch, tmp_path):
    for module in ("tensorflow_datasets", "tensorflow", "cv2", "simplejpeg", "array_record"):
        monkeypatch.setitem(sys.modules, module, None)
    data = load_dataset("digits", tmp_path / "absent")
    assert data.image_shape == (8, 8, 1)
    assert data.sizes == {"train": 1298, "validation": 144, "test": 355}
    assert not data.augmentation.flip
    assert data.label_names == tuple("0123456789")


def test_the_stated_mean_and_deviation_are_those_of_the_training_images():
    pixels = load_digits().splits["train"].images / 255
    data = load_dataset("digits")
    assert data.mean[0] == pytest.approx(pixels.mean(), abs=1e-4)
    assert data.std[0] == pytest.approx(pixels.std(), abs=1e-4)
