"""Files as people have them: what is taken, what is refused, and what the line says."""

import os

import numpy as np
import pytest

from experiments.data import load_dataset
from experiments.data.checks import DataError, MissingPackageError, naming
from experiments.data.importing import (
    array_source,
    describe_copy,
    known_originals,
    read_source,
    write_tfds,
)
from experiments.data.jpeg import image_size
from experiments.data.seal import SEAL
from experiments.errors import ConfigError, RunError
from experiments.prepare_data import prepare
from experiments.run.build import open_dataset
from tests.experiments.data import odd_sets
from tests.helpers.tiny_sets import as_rows, make_arrays

FORMS = {form.name: form for form in odd_sets.FORMS}


def read_all(path):
    for split in read_source(path).splits.values():
        for index in range(len(split.keys)):
            split.read(index)


def told(form, table, what, tmp_path):
    """What is said of one odd set of a table."""
    FORMS[form].write(tmp_path)
    table[what](tmp_path, FORMS[form])
    path = FORMS[form].place(tmp_path)
    with pytest.raises(DataError) as error:
        read_all(path)
    text = str(error.value)
    assert text.startswith(str(path))
    assert text.isprintable()
    return text.removeprefix(str(path)).lstrip(": /")


@pytest.mark.parametrize(
    ("form", "table", "what", "line"),
    [
        ("cifar10-python.gz", "PICKLES", "data float", "data_batch_2: data must be uint8 "
         "[N, 3072], got float64 (2, 3072)"),
        ("cifar10-python.gz", "PICKLES", "data 300", "data_batch_2: data must be uint8"),
        ("cifar10-python.gz", "PICKLES", "labels half", "data_batch_2: labels must be 2 integers, "
         "got 2 values of type float"),
        ("cifar100-python.xz", "PICKLES", "labels -1", "train label -1 of example 0 is outside"),
        ("cifar10-python.gz", "PICKLES", "no data", "data_batch_2 lacks data"),
        ("cifar10-python.gz", "PICKLES", "data empty", "data_batch_2: data must be uint8"),
        ("cifar10-python.gz", "METAS", "meta nine", "there are 9 class names for 10 classes"),
        ("cifar10-binary.gz", "BINARIES", "nothing", "data_batch_3.bin is cut short: 0 bytes"),
        ("cifar10-python.gz", "TAR_MEMBERS", "twice", "it has data_batch_1 twice"),
        ("cifar10-python.gz", "TAR_BOMBS", "8 GiB of name", "declares a header of 8589934592"),
        ("idx.gz", "IDX_TYPES", "label 200", "labels have the 5 values 0, 1, 3, 4 and 1 more, no"),
        ("idx.gz", "IDX_TYPES", "labels from 1", "labels run from 1 to 5, not 0..K-1; subtract 1"),
        ("idx.gz", "IDX_TYPES", "255 axes", "train-images-idx3-ubyte.gz has 255 axes, must have 3"),
        ("idx.gz", "IDX_BOMBS", "gigabytes", "train-images-idx3-ubyte.gz declares 10000 MiB"),
        ("mat.plain", "MAT_TYPES", "y 77", "train_32x32.mat: y must be 1..10, where 10 is the"),
        ("mat.plain", "MAT_TYPES", "y -3", "train_32x32.mat: y must be 1..10"),
        ("mat.plain", "MAT_TYPES", "X bool", "train_32x32.mat: X holds no real numbers"),
        ("mat.plain", "MAT_TYPES", "version 7.3", "train_32x32.mat is a MATLAB file of version"),
        ("npz.stored", "NPZ_TYPES", "labels text", "train label 'zebra' of example 2 is none of"),
        ("npz.stored", "NPZ_TYPES", "images channels first", "train images (10, 3, 8, 8) have 8 "
         "channels, a prepared set can have 1, 3, 4; they seem to be channels first: give"),
        ("npz.stored", "NPZ_MEMBERS_ONLY_IMPORTED", "13 channels", "train images (10, 8, 8, 13) "
         "have 13 channels, a prepared set can have 1, 3, 4"),
        ("npz.stored", "NPZ_TYPES", "labels from 1", "labels run from 1 to 5, not 0..K-1; subtract "
         "1 from all, or give num_classes=6 in the .npz if others have no examples"),
        ("npz.stored", "NPZ_TYPES", "labels 0, 7, 900", "labels have the 3 values 0, 7, 900, not "
         "0..K-1; number the classes 0..2 (np.unique(labels, return_inverse=True)), or give "
         "num_classes=901"),
        ("npz.stored", "NPZ_BOMBS", "num_classes", "num_classes must be an integer from 1 to "
         "100000, got 1000000000"),
        ("npz.stored", "NPZ_BOMBS", "300 MiB", "declares 300 MiB of arrays"),
        ("npz.stored", "ZIP_MEMBERS", "twice", "has train_images twice"),
        ("npz.stored", "ZIP_MEMBERS", "a pickle", "train_labels holds Python objects; save "),
        ("class folders", "FOLDER_MEMBERS", "empty class", "train has classes without images"),
        ("class folders", "FOLDER_MEMBERS", "two validations", "has val, validation, which mean"),
        ("class folders", "FOLDER_MEMBERS", "device", "train/class_0/z.png is no regular file"),
        ("class folders", "FOLDER_TYPES", "text", "train/class_0/0.png is no image file; replace"),
        ("class folders", "FOLDER_TYPES", "16 bits", "train/class_0/0.png has more than 8 bits"),
        ("class folders", "FOLDER_BOMBS", "png 60000x60000", "train/class_0/0.png is cut short or"),
    ],
)  # fmt: skip
def test_one_line_names_file_and_member_and_what_to_do(form, table, what, line, tmp_path):
    assert told(form, getattr(odd_sets, table), what, tmp_path).startswith(line)


@pytest.mark.parametrize(
    "what", ["hidden folder", "hidden empty folder", "hidden file", "double", "readme"]
)
def test_hidden_names_are_no_classes_and_no_images(what, tmp_path):
    path = odd_sets.FOLDERS.write(tmp_path)
    before = read_source(path)
    odd_sets.FOLDER_MEMBERS[what](tmp_path, odd_sets.FOLDERS)
    after = read_source(path)
    assert after.label_names == before.label_names == tuple(odd_sets.NAMES)
    assert after.splits["train"].keys == before.splits["train"].keys


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_every_flipped_bit_of_a_compressed_archive_is_told(suffix, tmp_path):
    form = odd_sets.cifar_form(True, "binary", suffix)
    path = form.write(tmp_path)
    whole, expected = path.read_bytes(), read_source(path).splits["train"].read(1)["image"]
    refused = 0
    for place in range(37, 8 * len(whole), 8 * len(whole) // 60):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            found = read_source(path).splits["train"].read(1)["image"]
        except DataError:
            refused += 1
        else:  # In a header, as the time of gzip's.
            np.testing.assert_array_equal(found, expected)
    assert refused > 50
    path.write_bytes(whole[:-4])  # Half of what gzip checks by.
    with pytest.raises(DataError, match="cut short or damaged"):
        read_source(path)


def save(tmp_path, **changes):
    np.savez(tmp_path / "set.npz", **(odd_sets.arrays() | changes))
    return tmp_path / "set.npz"


def test_labels_in_a_column_are_labels(tmp_path):
    labels = odd_sets.arrays()["train_labels"]
    split = read_source(save(tmp_path, train_labels=labels[:, None])).splits["train"]
    assert [split.read(index)["label"] for index in range(10)] == [
        odd_sets.NAMES[label] for label in labels
    ]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_split_is_used_as_one(name, tmp_path):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(7)[:, None] % odd_sets.CLASSES
    path = save(tmp_path, **{f"{name}_images": images, f"{name}_labels": labels})
    prepare("own", tmp_path, path, say=lambda line: None)
    data = load_dataset("own", tmp_path)
    assert as_rows(*data.validation) == as_rows(images, labels[:, 0])
    assert data.sizes == {"train": 10, "validation": 7, "test": 5}


def test_special_files_are_refused_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    (tmp_path / "zero.tar.gz").symlink_to("/dev/zero")
    (tmp_path / "lost.npz").symlink_to("/nowhere")
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "idx" / "train-labels-idx1-ubyte")
    for name, line in (
        ("pipe.npz", "is no regular file"),
        ("zero.npz", "is no regular file"),
        ("zero.tar.gz", "is no regular file"),
        ("lost.npz", "is a link to /nowhere, where there is no file"),
        ("idx", "train-images-idx3-ubyte is no regular file"),
    ):
        with pytest.raises(DataError, match=line):
            read_source(tmp_path / name)


def test_a_local_copy_is_compared_with_what_tfds_knows(tmp_path):
    content = {"train-images.gz": b"original", "train-labels.gz": b"changed", "mine.npz": b"mine"}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)

    class Known:
        size = 8
        checksum = "0682c5f2076f099c34cfdd15a9e063849ed437a49677e6fcc5b4198c76575be5"

    known = {f"https://x.org/{name}": Known for name in ("train-images.gz", "train-labels.gz")}
    paths = tuple(tmp_path / name for name in content)
    train, _ = make_arrays()
    source = array_source({"train": train}, files=paths, unchecked=paths[1:2])
    assert describe_copy(source, known) == [
        "not verified, another file than TFDS's original of that name (damage may go unseen): "
        f"{tmp_path}/train-labels.gz",
        f"not verified, for TFDS knows no hash of it (its own checksum is right): {paths[2]}",
        f"verified, the original by TFDS's SHA-256: {paths[0]}",
    ]
    assert len(known_originals("mnist")) == 4
    assert known_originals("no_such_set") == {}


def test_prepare_says_what_could_not_be_verified(tmp_path):
    said = []
    prepare("own", tmp_path, save(tmp_path), say=said.append)
    (line,) = said
    assert line.startswith("not verified, for TFDS knows no hash of it")


def test_an_error_while_writing_names_the_image(tmp_path):
    path = odd_sets.FOLDERS.write(tmp_path)
    (path / "train" / "class_1" / "1.jpg").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"^\S*photos/train/class_1/1\.jpg is no image file"):
        prepare("photos", tmp_path / "data", path)
    assert [entry for entry in (tmp_path / "data/photos").iterdir() if entry.is_dir()] == []


@pytest.mark.parametrize("name", ["../x", "a/b", "my-set", "é", ""])
def test_a_name_that_tfds_could_not_read_back_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="a name is a letter, then letters, digits and _"):
        prepare(name, tmp_path, save(tmp_path))


def test_a_changed_description_is_noticed(tmp_path):
    write_tfds(
        "own", array_source(dict(zip(("train", "test"), make_arrays(), strict=True))), tmp_path
    )
    path = tmp_path / "own" / "1.0.0" / "features.json"
    path.write_text(path.read_text().replace('"numClasses": "5"', '"numClasses": "7"'))
    with pytest.raises(DataError, match=r"own/1\.0\.0 is not as it was prepared: its \.json"):
        load_dataset("own", tmp_path)
    (path.parent / SEAL).unlink()  # As TFDS itself leaves a set.
    assert load_dataset("own", tmp_path).num_classes == 7


def test_a_damaged_set_ends_a_run_with_the_status_of_an_unusable_config(tmp_path):
    from experiments.configs.digits import get_config

    folder = odd_sets.write_prepared(tmp_path) / "tiny" / "1.0.0"
    shard = next(folder.glob("*train.array_record*"))
    shard.write_bytes(shard.read_bytes()[:50])
    config = get_config()
    with config.unlocked():
        config.dataset, config.runtime.data_dir = "tiny", str(tmp_path)
    with pytest.raises(ConfigError, match=r"tiny/1\.0\.0.*prepare the set again") as error:
        open_dataset(config)
    assert error.value.exit_code == 2
    assert str(error.value).isprintable()


def test_errors_about_data_end_every_command_in_one_line():
    with pytest.raises(RunError, match="set is cut short or damaged"), naming("set"):
        raise EOFError
    with (
        pytest.raises(RunError, match="x needs the package y, which is not installed"),
        naming("x"),
    ):
        raise ModuleNotFoundError(name="y")
    assert issubclass(MissingPackageError, RunError)


@pytest.mark.parametrize("data", [odd_sets.png_header(60000, 60000), b"BM" + bytes(60), b"", b"x"])
def test_an_image_that_declares_too_much_is_corrupt(data):
    with pytest.raises(ValueError, match=r"neither a JPEG file|declares 60000x60000"):
        image_size(data)
    assert image_size(odd_sets.png(np.zeros((4, 5), np.uint8))) == (4, 5)
