import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments.data import load_dataset
from experiments.prepare_data import prepare
from tests.helpers.tiny_sets import NUM_TRAIN, make_arrays

ROOT = Path(__file__).parents[3]
SLOW = """
import os, time
from experiments.data.importing import array_source, npz, source
read = source._array_split
def slow(*arguments):
    split = read(*arguments)
    def wait(index):
        os.write(1, b"reading\\n")
        time.sleep(0.05)
        return split.read(index)
    return source.SourceSplit(split.keys, wait, split.num_bytes)
source._array_split = slow
from experiments import prepare_data
from experiments.command_line import run_command
run_command(prepare_data.define_flags, prepare_data.main)
"""


@pytest.fixture
def npz_file(tmp_path):
    (train, train_labels), (test, test_labels) = make_arrays()
    np.savez(
        tmp_path / "set.npz",
        train_images=train,
        train_labels=train_labels,
        test_images=test,
        test_labels=test_labels,
    )
    return tmp_path / "set.npz"


def command(code, data_dir, local_copy):
    return [
        sys.executable,
        *code,
        "--dataset=tiny",
        f"--data_dir={data_dir}",
        f"--from={local_copy}",
    ]


def folders(data_dir):
    return sorted(path.name for path in (data_dir / "tiny").iterdir() if path.is_dir())


def start_slowly(data_dir, npz_file):
    return subprocess.Popen(
        command(["-c", SLOW], data_dir, npz_file),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_in_the_middle(data_dir, npz_file, signal_number):
    """Starts the command slowly, stops it while it writes; exit status and last line printed."""
    with start_slowly(data_dir, npz_file) as process:
        for _ in range(8):
            assert process.stdout.readline() == "reading\n"
        process.send_signal(signal_number)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_killed_preparation_leaves_nothing_that_counts_and_the_next_one_cleans_up(
    tmp_path, npz_file
):
    data_dir = tmp_path / "data"
    stop_in_the_middle(data_dir, npz_file, signal.SIGKILL)
    (leftover,) = folders(data_dir)
    assert leftover.startswith("incomplete.")
    with pytest.raises(ValueError, match="unknown data set 'tiny'"):
        load_dataset("tiny", data_dir)
    result = subprocess.run(
        command(["-m", "experiments.prepare_data"], data_dir, npz_file),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"tiny is prepared in {data_dir / 'tiny' / '1.0.0'}" in result.stdout
    assert folders(data_dir) == ["1.0.0"]
    assert load_dataset("tiny", data_dir, validation_size=0).sizes["train"] == NUM_TRAIN


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_preparation_ends_with_one_line_and_cleans_up_itself(tmp_path, npz_file, number):
    data_dir = tmp_path / "data"
    status, errors = stop_in_the_middle(data_dir, npz_file, number)
    assert status == 128 + number
    last = errors.rstrip().splitlines()[-1]
    assert last.endswith(f"stopped: {number.name}; the same command continues")
    assert "images/s" in errors
    assert "Traceback" not in errors
    assert folders(data_dir) == []


def test_two_preparations_of_one_set_do_not_meet(tmp_path, npz_file):
    (tmp_path / "tiny").mkdir()
    with (tmp_path / "tiny" / ".prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # As a running preparation does.
        with pytest.raises(RuntimeError, match="another process is preparing"):
            prepare("tiny", tmp_path, npz_file)
    prepare("tiny", tmp_path, npz_file)
    assert folders(tmp_path) == ["1.0.0"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits", "there is nothing to do"),
        ("imagenet2012", "144 GiB from image-net.org"),
        ("no_such_set", "TensorFlow Datasets has no set of this name"),
    ],
)
def test_what_cannot_be_downloaded_is_said_in_one_line(name, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        prepare(name, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cifar10", "beans"])
def test_without_a_network_the_error_offers_the_local_copy(name, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: (_ for _ in ()).throw(OSError()))
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(RuntimeError, match=r"no connection to .*; give --from=PATH"):
        prepare(name, tmp_path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def needs_tensorflow(name, **kwargs):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(tfds, "builder", needs_tensorflow)
    with pytest.raises(ImportError, match="needs the package tensorflow, which is missing"):
        prepare("beans", tmp_path)


def test_the_command_line_reports_errors_in_one_line(tmp_path):
    result = subprocess.run(
        command(["-m", "experiments.prepare_data"], tmp_path, tmp_path / "absent.npz"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.strip() == (
        f"error: cannot prepare tiny: no file or folder {tmp_path / 'absent.npz'}"
    )
