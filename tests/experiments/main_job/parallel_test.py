"""Several devices give what one device gives."""

import pytest

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
