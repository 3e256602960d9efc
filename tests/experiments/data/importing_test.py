import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest
import scipy.io
from PIL import Image

from experiments.data.importing import array_source, read_source
from tests.helpers.tiny_sets import NUM_CLASSES, make_arrays

PER_BATCH = 3
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def examples(source, split):
    """Images and labels of a source, in its order."""
    content = source.splits[split]
    read = [content.read(index) for index in range(len(content.keys))]
    return [example["image"] for example in read], [example["label"] for example in read]


def cifar_arrays(batches, classes, seed=0):
    """`batch name -> (images [N, 32, 32, 3], labels, coarse labels)`."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.integers(0, 256, (PER_BATCH, 32, 32, 3)).astype(np.uint8),
            rng.integers(0, classes, PER_BATCH),
            rng.integers(0, 20, PER_BATCH),
        )
        for name in batches
    }


def write_archive(path, folder, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def binary_batch(images, labels, coarse=None):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    columns = [] if coarse is None else [coarse[:, None]]
    return np.concatenate([*columns, labels[:, None], planes], axis=1).astype(np.uint8).tobytes()


def python_batch(images, labels, coarse=None):
    content = {
        b"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1),
        b"labels" if coarse is None else b"fine_labels": [int(label) for label in labels],
    }
    if coarse is not None:
        content[b"coarse_labels"] = [int(label) for label in coarse]
    return pickle.dumps(content, protocol=2)


def idx(array, compress):
    header = b"\x00\x00\x08" + bytes([array.ndim])
    header += b"".join(size.to_bytes(4, "big") for size in array.shape)
    data = header + array.astype(np.uint8).tobytes()
    return gzip.compress(data) if compress else data


@pytest.mark.parametrize("version", ["binary", "python"])
def test_cifar10_archives(version, tmp_path):
    batches = cifar_arrays([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], 10)
    if version == "binary":
        files = {f"{name}.bin": binary_batch(x, y) for name, (x, y, _) in batches.items()}
        files["batches.meta.txt"] = "\n".join([*NAMES, "", ""]).encode()
    else:
        files = {name: python_batch(x, y) for name, (x, y, _) in batches.items()}
        files["batches.meta"] = pickle.dumps({b"label_names": [n.encode() for n in NAMES]}, 2)
    archive = write_archive(tmp_path / f"cifar-10-{version}.tar.gz", "cifar-10", files)
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    for name, data in files.items():
        (unpacked / name).write_bytes(data)
    for source in (read_source(archive), read_source(unpacked)):
        assert source.label_names == tuple(NAMES)
        images, labels = examples(source, "train")
        expected = [batches[f"data_batch_{i}"] for i in range(1, 6)]
        np.testing.assert_array_equal(images, np.concatenate([x for x, _, _ in expected]))
        assert labels == [NAMES[label] for _, y, _ in expected for label in y]
        np.testing.assert_array_equal(examples(source, "test")[0], batches["test_batch"][0])


@pytest.mark.parametrize("version", ["binary", "python"])
def test_cifar100_archives_keep_both_labels(version, tmp_path):
    batches = cifar_arrays(["train", "test"], 100)
    batch, suffix = (binary_batch, ".bin") if version == "binary" else (python_batch, "")
    files = {f"{name}{suffix}": batch(*arrays) for name, arrays in batches.items()}
    source = read_source(write_archive(tmp_path / "cifar-100.tar.gz", "cifar-100", files))
    assert source.num_classes == 100
    np.testing.assert_array_equal(examples(source, "train")[0], batches["train"][0])
    np.testing.assert_array_equal(examples(source, "train")[1], batches["train"][1])
    test = source.splits["test"]
    coarse = [test.read(index)["coarse_label"] for index in range(PER_BATCH)]
    np.testing.assert_array_equal(coarse, batches["test"][2])
    assert test.read(2)["id"] == "test_00002"


def test_a_pickle_that_is_no_array_is_never_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("x",))

    files = {name: pickle.dumps(Malicious(), 2) for name in ("train", "test")}
    with pytest.raises(ValueError, match="train is no CIFAR batch"):
        read_source(write_archive(tmp_path / "cifar-100.tar.gz", "x", files))
    assert not (tmp_path / "ran").exists()


def test_damaged_or_foreign_archives_are_refused(tmp_path):
    whole = write_archive(tmp_path / "a.tar.gz", "x", {"readme": b"hello" * 1000})
    with pytest.raises(ValueError, match=r"no complete CIFAR-10 or CIFAR-100 among \['readme'\]"):
        read_source(whole)
    (tmp_path / "b.tar.gz").write_bytes(whole.read_bytes()[:40])
    with pytest.raises(ValueError, match="cut short or damaged"):
        read_source(tmp_path / "b.tar.gz")
    files = {"train.bin": bytes(3074), "test.bin": bytes(100)}
    with pytest.raises(ValueError, match=r"test\.bin is cut short: 100 bytes"):
        read_source(write_archive(tmp_path / "c.tar.gz", "x", files))


@pytest.mark.parametrize("compress", [True, False])
def test_idx_folders(compress, tmp_path):
    (train, train_labels), (test, test_labels) = make_arrays(channels=1)
    suffix = ".gz" if compress else ""
    for prefix, images, labels in (("train", train, train_labels), ("t10k", test, test_labels)):
        for kind, array in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
            path = tmp_path / f"{prefix}-{kind}-ubyte{suffix}"
            path.write_bytes(idx(array, compress))
    source = read_source(tmp_path)
    assert source.image_shape == (6, 6, 1)
    np.testing.assert_array_equal(examples(source, "train")[0], train)
    np.testing.assert_array_equal(examples(source, "test")[1], test_labels)
    cut = path.read_bytes()[:-1]
    path.write_bytes(cut)
    with pytest.raises(ValueError, match="is cut short"):
        read_source(tmp_path)
    path.write_bytes(b"\x00\x00\x0d\x01")
    with pytest.raises(ValueError, match="no IDX file of unsigned bytes"):
        read_source(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="no t10k-labels-idx1-ubyte"):
        read_source(tmp_path)


def test_svhn_folders(tmp_path):
    (train, _), (test, _) = make_arrays()
    for name, images in (("train", train), ("test", test)):
        labels = 1 + np.arange(len(images)) % 10
        content = {"X": np.moveaxis(images, 0, -1), "y": labels[:, None]}
        scipy.io.savemat(tmp_path / f"{name}_32x32.mat", content)
    source = read_source(tmp_path)
    assert sorted(source.splits) == ["test", "train"]
    np.testing.assert_array_equal(examples(source, "train")[0], train)
    assert examples(source, "test")[1][:10] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(ValueError, match=r"no test_32x32\.mat"):
        read_source(tmp_path)


def test_npz_of_arrays_with_names_and_further_features(tmp_path):
    (train, train_labels), (test, test_labels) = make_arrays()
    names = ["a", "b", "c", "d", "e"]
    np.savez(
        tmp_path / "set.npz",
        train_images=train,
        train_labels=train_labels,
        test_images=test[..., 0],
        test_labels=test_labels,
        label_names=names,
        train_coarse_label=np.arange(len(train)),
    )
    with pytest.raises(ValueError, match="all splits must have one image shape"):
        read_source(tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz") as file:
        np.savez(tmp_path / "set.npz", **{**file, "test_images": test})
    source = read_source(tmp_path / "set.npz")
    assert source.label_names == tuple(names)
    assert examples(source, "test")[1] == [names[label] for label in test_labels]
    assert source.splits["train"].read(7)["coarse_label"] == 7


@pytest.mark.parametrize("names", [None, ["dog", "cat"]])
def test_npz_labels_may_be_names_of_classes(tmp_path, names):
    images = np.zeros((3, 8, 8), np.uint8)
    arrays = {
        "train_images": images,
        "train_labels": np.array([["dog"], ["cat"], ["dog"]]),
        "test_images": images[:2],
        "test_labels": np.array([b"cat", b"dog"]),
    }
    np.savez(tmp_path / "set.npz", **arrays, **({} if names is None else {"label_names": names}))
    source = read_source(tmp_path / "set.npz")
    assert source.label_names == tuple(names or ["cat", "dog"])
    assert examples(source, "train")[1] == ["dog", "cat", "dog"]
    assert examples(source, "test")[1] == ["cat", "dog"]


def test_class_folders_pass_jpeg_files_on_and_convert_the_rest(class_folders):
    source = read_source(class_folders)
    assert source.image_shape is None
    assert source.label_names == ("class_0", "class_1", "class_2")
    assert sorted(source.splits) == ["train", "validation"]
    train = source.splits["train"]
    assert len(train.keys) == 23
    for index, key in enumerate(train.keys):
        example = train.read(index)
        original = (class_folders / "train" / example["label"] / key).read_bytes()
        converted = key in ("train_05.JPEG", "train_06.JPEG")  # CMYK and PNG
        assert (example["image"] == original) is not converted
        image = Image.open(io.BytesIO(example["image"]))
        assert image.format == "JPEG"
        assert image.mode == ("L" if key == "train_04.JPEG" else "RGB")


def test_classes_may_reuse_file_names(tmp_path):
    for place in ("a", "b"):
        (tmp_path / "train" / place).mkdir(parents=True)
        (tmp_path / "train" / place / "1.png").write_bytes(b"x")
    assert read_source(tmp_path).splits["train"].keys == ["a/1.png", "b/1.png"]


def test_unusable_class_folders_are_refused(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no images in class folders"):
        read_source(tmp_path)
    (tmp_path / "train" / "a" / "1.jpg").write_bytes(b"x")
    (tmp_path / "val" / "b").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"classes that train lacks: \['b'\]"):
        read_source(tmp_path)


def test_other_paths_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_source(tmp_path / "absent.npz")
    (tmp_path / "set.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"cannot import .*set\.csv: give a CIFAR archive"):
        read_source(tmp_path / "set.csv")
    np.savez(tmp_path / "set.npz", train_images=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"lacks \['test_images', 'test_labels', 'train_labels'\]"):
        read_source(tmp_path / "set.npz")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, NUM_CLASSES]), "train label 5 of example 2 is outside 0..4"),
        (np.array([0, -2, 1]), "train label -2 of example 1 is outside 0..4"),
        (np.array([0, 1]), "train labels must be 3 integers"),
    ],
)
def test_labels_out_of_range_are_refused(labels, message):
    images = np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(ValueError, match=message):
        array_source({"train": (images, labels)}, num_classes=NUM_CLASSES)
