import json
import os
import shutil
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments.data import Augmentation, StreamedDataset, array_cache, load_dataset
from experiments.data.importing import array_source, write_tfds
from tests.helpers.tiny_sets import NUM_CLASSES, NUM_TEST, NUM_TRAIN, as_rows, make_arrays


def write_cached_arrays(folder, **changes):
    """A set that consists of its cached arrays alone, as on a machine without TFDS."""
    (train, train_labels), (test, test_labels) = make_arrays()
    arrays = {
        "train_images": train,
        "train_labels": train_labels,
        "test_images": test,
        "test_labels": test_labels,
        "num_classes": np.array(NUM_CLASSES),
        "label_names": np.array([], dtype=str),
    }
    target = folder / "some_set" / "1.0.0"
    target.mkdir(parents=True)
    np.savez(target / array_cache.FILE_NAME, fingerprint="", **{**arrays, **changes})
    return folder


def test_all_examples_come_back_and_each_once(tiny):
    data = load_dataset(tiny.name, tiny.data_dir, validation_size=6)
    assert data.sizes == {"train": NUM_TRAIN - 6, "validation": 6, "test": NUM_TEST}
    assert as_rows(*data.test) == as_rows(*tiny.test)
    kept_and_held_out = as_rows(*data.train) + as_rows(*data.validation)
    assert sorted(kept_and_held_out) == as_rows(*tiny.train)
    assert data.train.labels.dtype == np.int32
    assert data.image_shape == (6, 6, 3)
    assert data.augmentation == Augmentation()


def test_unknown_sets_get_the_mean_and_deviation_of_their_training_images(tiny):
    data = load_dataset(tiny.name, tiny.data_dir, validation_size=6)
    pixels = data.train.images / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)))


@pytest.mark.parametrize("channels", [1, 4])
def test_sets_with_other_channel_counts(channels, tmp_path):
    (images, labels), test = make_arrays(channels)
    source = array_source({"train": (images, labels), "test": test}, num_classes=NUM_CLASSES)
    write_tfds("other", source, tmp_path)
    data = load_dataset("other", tmp_path, validation_size=0)
    assert data.image_shape == (6, 6, channels)
    assert len(data.mean) == len(data.std) == channels
    assert as_rows(*data.train) == as_rows(images, labels)


def test_known_sets_are_read_under_their_own_name_and_settings(tmp_path):
    rng = np.random.default_rng(0)
    splits = {
        name: (rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8), rng.integers(0, 10, n))
        for name, n in (("train", 15), ("test", 6))
    }
    write_tfds("cifar10", array_source(splits, num_classes=10), tmp_path, num_shards=2)
    data = load_dataset("cifar10", tmp_path, validation_size=0, train_size=9)
    assert (data.mean, data.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert data.augmentation == Augmentation(pad=4, flip=True)
    assert data.sizes == {"train": 9, "validation": 0, "test": 6}
    assert set(as_rows(*data.train)) < set(as_rows(*splits["train"]))
    other = load_dataset("cifar10", tmp_path, augmentation=Augmentation(pad=1))
    assert other.augmentation == Augmentation(pad=1)


def test_a_set_with_its_own_validation_split_uses_it(tmp_path):
    train, test = make_arrays()
    validation, _ = make_arrays(seed=7)
    splits = {"train": train, "validation": validation, "test": test}
    write_tfds("own", array_source(splits, num_classes=NUM_CLASSES), tmp_path)
    assert as_rows(*load_dataset("own", tmp_path).validation) == as_rows(*validation)
    assert load_dataset("own", tmp_path).sizes["train"] == NUM_TRAIN
    assert load_dataset("own", tmp_path, validation_size=5).sizes["validation"] == 5


def test_the_second_reading_needs_no_tfds(tiny, monkeypatch):
    first = load_dataset(tiny.name, tiny.data_dir)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    second = load_dataset(tiny.name, tiny.data_dir)
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.test.labels, second.test.labels)


def test_cached_arrays_alone_are_enough(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    data = load_dataset("some_set", write_cached_arrays(tmp_path))
    assert data.sizes["test"] == NUM_TEST


def test_without_tfds_and_without_arrays_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "some_set" / "1.0.0").mkdir(parents=True)
    (tmp_path / "some_set" / "1.0.0" / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ModuleNotFoundError, match="needs tensorflow_datasets"):
        load_dataset("some_set", tmp_path)


def test_arrays_of_another_preparation_are_not_used(tmp_path):
    def prepare(seed):
        train, test = make_arrays(seed=seed)
        source = array_source({"train": train, "test": test}, num_classes=NUM_CLASSES)
        return write_tfds("changing", source, tmp_path), as_rows(*test)

    folder, _ = prepare(seed=0)
    load_dataset("changing", tmp_path)
    old_arrays = (folder / array_cache.FILE_NAME).read_bytes()
    shutil.rmtree(folder)
    _, expected = prepare(seed=1)
    (folder / array_cache.FILE_NAME).write_bytes(old_arrays)
    assert as_rows(*load_dataset("changing", tmp_path).test) == expected
    assert (folder / array_cache.FILE_NAME).read_bytes() != old_arrays


def test_damaged_arrays_are_replaced_and_leftovers_removed(tiny, tmp_path):
    shutil.copytree(tiny.data_dir, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / tiny.name / "1.0.0"
    whole = load_dataset(tiny.name, tmp_path)
    path = folder / array_cache.FILE_NAME
    path.write_bytes(path.read_bytes()[:1000])
    for name, age in ((".arrays-killed", 1e5), (".arrays-alive", 1)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    again = load_dataset(tiny.name, tmp_path)
    np.testing.assert_array_equal(again.train.images, whole.train.images)
    assert array_cache.load(folder) is not None
    assert [path.name for path in folder.glob(".arrays-*")] == [".arrays-alive"]


def test_a_folder_that_cannot_be_written_only_costs_a_warning(tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny.data_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / tiny.name / "1.0.0" / array_cache.FILE_NAME).unlink(missing_ok=True)

    def refuse(**_):
        raise PermissionError("read-only")

    monkeypatch.setattr(array_cache.tempfile, "mkstemp", refuse)
    with pytest.warns(UserWarning, match="not cached.*read-only"):
        data = load_dataset(tiny.name, tmp_path)
    assert data.sizes["test"] == NUM_TEST


def test_tfds_itself_reads_what_was_written(tiny):
    source = tfds.data_source(
        tiny.name,
        split="train",
        data_dir=tiny.data_dir,
        download=False,
        builder_kwargs={"file_format": "array_record"},
    )
    assert len(source) == NUM_TRAIN
    assert len(list((tiny.data_dir / tiny.name / "1.0.0").glob("*train.array_record*"))) == 3
    rows = as_rows([e["image"] for e in source], [e["label"] for e in source])
    assert rows == as_rows(*tiny.train)


def test_the_newest_version_is_read(tmp_path):
    for version, label in (("1.9.0", 0), ("1.10.0", 3)):
        write_cached_arrays(tmp_path / version, test_labels=np.full(NUM_TEST, label))
        shutil.move(tmp_path / version / "some_set" / "1.0.0", tmp_path / "some_set" / version)
    np.testing.assert_array_equal(load_dataset("some_set", tmp_path).test.labels, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": np.full(NUM_TEST, 5)}, "test label 5 of example 0 is outside 0..4"),
        ({"train_labels": np.full(NUM_TRAIN, -1)}, "train label -1 of example 0 is outside 0..4"),
        ({"test_labels": np.zeros(3, int)}, f"test labels must be {NUM_TEST} integers"),
        ({"test_labels": np.zeros(NUM_TEST)}, "integers, got float64"),
        ({"test_images": np.zeros((0, 6, 6, 3), np.uint8)}, "split 'some_set test' is empty"),
        ({"test_images": np.zeros((NUM_TEST, 6), np.uint8)}, "uint8 of shape"),
        ({"test_images": np.zeros((NUM_TEST, 6, 6, 3))}, "got float64"),
        ({"test_images": np.zeros((NUM_TEST, 6, 6, 1), np.uint8)}, "one image shape"),
    ],
)
def test_unusable_arrays_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_dataset("some_set", write_cached_arrays(tmp_path, **changes))


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'cifar11'; known are cifar10, cifar100"):
        load_dataset("cifar11", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "imagenet2012", "beans"])
def test_a_missing_set_names_the_command_that_gets_it(name, tmp_path):
    command = f"python -m experiments.prepare_data --dataset={name} --data_dir={tmp_path}"
    with pytest.raises(FileNotFoundError) as error:
        load_dataset(name, tmp_path)
    assert command in str(error.value)
    assert "\n" not in str(error.value)


def test_the_missing_message_tells_the_size_of_the_download(tmp_path):
    with pytest.raises(FileNotFoundError, match="downloads 162 MiB from www"):
        load_dataset("cifar10", tmp_path)


def test_a_half_written_set_counts_as_missing(tmp_path):
    (tmp_path / "cifar10" / "incomplete.ABCDEF_3.0.2").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="cifar10 is not prepared"):
        load_dataset("cifar10", tmp_path)


def test_images_of_different_sizes_are_streamed_and_never_stacked(tiny_folders):
    assert isinstance(load_dataset("tiny_folders", tiny_folders), StreamedDataset)
    with pytest.raises(ValueError, match="must be streamed"):
        load_dataset("tiny_folders", tiny_folders, streamed=False)


def test_a_set_in_another_format_is_refused(tiny, tmp_path):
    shutil.copytree(tiny.data_dir, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / tiny.name / "1.0.0"
    (folder / array_cache.FILE_NAME).unlink(missing_ok=True)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="not in array_record format"):
        load_dataset(tiny.name, tmp_path)


def test_a_set_of_something_else_is_refused(tiny, tmp_path):
    shutil.copytree(tiny.data_dir, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / tiny.name / "1.0.0"
    (folder / array_cache.FILE_NAME).unlink(missing_ok=True)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["supervisedKeys"]["tuple"]["items"][1]["featureKey"] = "text"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="no image-classification set: its features are"):
        load_dataset(tiny.name, tmp_path)
