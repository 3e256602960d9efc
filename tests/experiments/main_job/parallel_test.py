"""Several devices give what one device gives."""

import pytest

from experiments.errors import CheckpointError, InterruptedRunError
from tests.helpers.results import assert_same_results
from tests.helpers.tiny_runs import SMALLER, Compilations, run_tiny

PLAIN = {**SMALLER, "method": "rigl"}


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one_device")
    run_tiny(workdir, PLAIN)
    return workdir


def test_four_devices_are_one_device(one_device, tmp_path):
    with Compilations() as compilations:
        summary = run_tiny(tmp_path, {**PLAIN, "runtime.devices": 4})
    assert summary["hardware"]["devices"] == 4
    assert_same_results(one_device, tmp_path)
    # pmap gives all functions one name; those that take the state take its random key.
    counts = [count for text, count in compilations.messages.items() if "key<fry>[]" in text]
    assert len(counts) >= 3  # placing the state, training steps, steps that move the masks
    assert set(counts) == {1}


def test_batch_norm_over_all_devices_is_that_of_one_device(finished, tmp_path):
    run_tiny(tmp_path, {"runtime.devices": 4, "model.sync_batch_norm": True})
    assert_same_results(finished.workdir, tmp_path)


@pytest.mark.parametrize(
    ("fields", "devices", "told"),
    [
        ({}, (1, 2), "was trained on 1 device(s), this start has 2: batch norm sees"),
        ({}, (2, 1), "was trained on 2 device(s), this start has 1: batch norm sees"),
        ({"model.sync_batch_norm": True}, (1, 2), ""),
        (SMALLER, (2, 1), ""),  # without batch norm
    ],
)
def test_a_run_continues_on_as_many_devices_unless_they_do_not_matter(
    tmp_path, stop_at, fields, devices, told
):
    stop_at(3)
    with pytest.raises(InterruptedRunError):
        run_tiny(tmp_path, {**fields, "runtime.devices": devices[0]})
    stop_at(5)
    error = CheckpointError if told else InterruptedRunError
    with pytest.raises(error) as ended:
        run_tiny(tmp_path, {**fields, "runtime.devices": devices[1]})
    assert told in str(ended.value)
    assert "\n" not in str(ended.value)
