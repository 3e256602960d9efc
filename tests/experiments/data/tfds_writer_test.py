import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data.importing import array_source, read_source, write_tfds
from experiments.data.importing.source import Source, SourceSplit
from tests.helpers.tiny_sets import NUM_CLASSES, make_arrays


def read(name, data_dir, split="train"):
    return tfds.data_source(
        name,
        split=split,
        data_dir=data_dir,
        download=False,
        builder_kwargs={"file_format": "array_record"},
    )


def cifar_like(count=30, classes=10):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    return images, rng.integers(0, classes, count)


def write_with_the_stock_writer(images, labels, data_dir):
    """The same examples through TFDS's own shuffling writer."""

    def generate(_, split):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            file.seek(0)
            yield index, {"id": f"{split}_{index:05d}", "image": file, "label": int(label)}

    body = {
        "name": "cifar10",
        "_split_generators": lambda self, manager: {"train": generate(self, "train")},
        "_generate_examples": generate,
    }
    base = tfds.builder_cls("cifar10")
    with tfds.core.registered.skip_registration():
        builder = type("Stock", (base,), body)
    builder(data_dir=str(data_dir), file_format="array_record").download_and_prepare()


def test_known_sets_are_written_in_the_order_of_their_own_builder(tmp_path):
    images, labels = cifar_like()
    source = array_source({"train": (images, labels)}, num_classes=10)
    write_tfds("cifar10", source, tmp_path / "ours", num_shards=4)
    write_with_the_stock_writer(images, labels, tmp_path / "stock")
    ours, stock = read("cifar10", tmp_path / "ours"), read("cifar10", tmp_path / "stock")
    assert len(ours) == len(stock) == len(images)
    for mine, theirs in zip(ours, stock, strict=True):
        assert mine["id"] == theirs["id"]
        assert mine["label"] == theirs["label"]
        np.testing.assert_array_equal(mine["image"], theirs["image"])


def test_examples_come_back_to_the_last_bit(tmp_path):
    images, labels = cifar_like()
    write_tfds("cifar10", array_source({"train": (images, labels)}, num_classes=10), tmp_path)
    for example in read("cifar10", tmp_path):
        index = int(example["id"].decode().removeprefix("train_"))
        np.testing.assert_array_equal(example["image"], images[index])
        assert example["label"] == labels[index]


def test_features_that_the_source_lacks_are_marked_as_not_given(tmp_path):
    images, labels = cifar_like(classes=100)
    write_tfds("cifar100", array_source({"train": (images, labels)}, num_classes=100), tmp_path)
    assert {int(example["coarse_label"]) for example in read("cifar100", tmp_path)} == {-1}


def test_class_folders_become_imagenet_with_its_own_class_numbers(class_folders, tmp_path):
    synsets = ("n01440764", "n01443537", "n02124075")
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for number, synset in enumerate(synsets):
            (tmp_path / split / synset).symlink_to(class_folders / split / f"class_{number}")
    write_tfds("imagenet2012", read_source(tmp_path), tmp_path / "data", num_shards=2)
    found = set()
    for split in ("train", "validation"):
        for example in read("imagenet2012", tmp_path / "data", split):
            number = int(example["file_name"].decode().split("_")[1].split(".")[0]) % 3
            found.add((number, int(example["label"])))
    assert found == {(0, 0), (1, 1), (2, 285)}


def test_class_names_are_kept_and_checked(tmp_path):
    train, _ = make_arrays()
    names = [f"class {number}" for number in range(NUM_CLASSES)]
    source = array_source({"train": train}, label_names=names)
    folder = write_tfds("named", source, tmp_path)
    label = tfds.builder_from_directory(folder).info.features["label"]
    assert label.names == names
    images = np.zeros((10, 28, 28), np.uint8)
    wrong = array_source({"train": (images, np.arange(10))}, label_names=list("abcdefghij"))
    with pytest.raises(ValueError, match=r"fashion_mnist has no classes named \['a', 'b'"):
        write_tfds("fashion_mnist", wrong, tmp_path)


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((28, 28, 3), 10, r"images of shape \(32, 32, 3\), the source \(28, 28, 3\)"),
        ((32, 32, 1), 10, r"images of shape \(32, 32, 3\), the source \(32, 32, 1\)"),
        ((32, 32, 3), 11, "cifar10 has 10 classes, the source 11"),
    ],
)
def test_a_source_that_is_not_this_set_is_refused_and_leaves_nothing(
    shape, classes, message, tmp_path
):
    arrays = (np.zeros((4, *shape), np.uint8), np.arange(4))
    with pytest.raises(ValueError, match=message):
        write_tfds("cifar10", array_source({"train": arrays}, num_classes=classes), tmp_path)
    assert not [path for path in (tmp_path / "cifar10").iterdir() if path.is_dir()]


def test_a_prepared_set_is_not_written_again(tiny):
    source = array_source({"train": tiny.train}, num_classes=NUM_CLASSES)
    with pytest.raises(ValueError, match="tiny_rgb is already prepared in"):
        write_tfds(tiny.name, source, tiny.data_dir)


def test_an_error_in_the_middle_leaves_nothing_behind(tmp_path):
    def fail(index):
        if index == 2:
            raise OSError("the disk is gone")
        return {"image": np.zeros((4, 4, 3), np.uint8), "label": 0}

    source = Source({"train": SourceSplit(range(9), fail, 9)}, (4, 4, 3), 2)
    with pytest.raises(OSError, match="the disk is gone"):
        write_tfds("broken", source, tmp_path)
    assert [path.name for path in (tmp_path / "broken").iterdir()] == [".prepare.lock"]


def test_originals_are_read_from_where_tfds_downloads_them(tmp_path, monkeypatch):
    train, test = make_arrays(channels=1, size=28)
    seen = {}

    def read_files(files):
        seen.update(files)
        return array_source({"train": train, "test": test}, num_classes=10)

    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [])
    monkeypatch.setattr(
        tfds.download.DownloadManager,
        "download",
        lambda self, urls: {name: tmp_path / f"cached_{name}" for name in urls},
    )
    write_tfds("mnist", read_files, tmp_path)
    assert sorted(seen) == [
        f"{part}-{kind}-ubyte.gz"
        for part in ("t10k", "train")
        for kind in ("images-idx3", "labels-idx1")
    ]
    assert len(read("mnist", tmp_path)) == len(train[0])
