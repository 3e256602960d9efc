import threading
import time

import numpy as np
import pytest

from experiments.data.threaded import Loaded, default_threads, load_batches


def number(job):
    return Loaded(np.full((2, 2, 1), job, np.uint8), job)


def batches(steps, load=number, on_note=None, **options):
    on_note = on_note or pytest.fail
    return load_batches(steps, load, (2, 2, 1), on_note=on_note, **options)


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_batches_come_in_order_whatever_the_threads(num_threads, ahead):
    steps = [range(start, start + 40) for start in range(0, 240, 40)]

    def unevenly(job):
        time.sleep(0.0005 * (job % 7 == 0))
        return number(job)

    found = list(batches(steps, unevenly, num_threads=num_threads, ahead=ahead))
    np.testing.assert_array_equal(np.concatenate([b.labels for b in found]), np.arange(240))
    for batch in found:
        np.testing.assert_array_equal(batch.images[:, 0, 0, 0], batch.labels)
        np.testing.assert_array_equal(batch.weights, 1)


def test_no_more_is_loaded_ahead_than_asked_for():
    drawn = []

    def steps():
        for step in range(100):
            drawn.append(step)
            yield [step]

    reader = batches(steps(), ahead=3, num_threads=2)
    next(reader)
    assert len(drawn) <= 5
    next(reader)
    assert len(drawn) <= 6
    reader.close()


def test_padding_has_weight_zero():
    (batch,) = batches([[1, 2, 3]], lambda job: number(job) if job != 2 else Loaded(None))
    assert batch.weights.tolist() == [1, 0, 1]
    assert batch.labels.tolist() == [1, 0, 3]
    assert not batch.images[1].any()


def test_an_error_in_a_worker_reaches_the_reader_at_its_batch():
    def fail(job):
        if job == 21:
            raise KeyError("gone")
        return number(job)

    reader = batches([range(10), range(10, 20), range(20, 30)], fail, num_threads=2)
    next(reader)
    next(reader)
    with pytest.raises(KeyError, match="gone"):
        next(reader)


def test_notes_are_told_in_order_in_the_thread_of_the_reader():
    told = []

    def note(job):
        return Loaded(None, notes=(f"{job}a", f"{job}b"))

    def tell(text):
        assert threading.current_thread() is threading.main_thread()
        told.append(text)

    list(batches([range(40)], note, tell, num_threads=3))
    assert told == [f"{job}{part}" for job in range(40) for part in "ab"]


def test_closing_the_reader_ends_its_threads():
    before = threading.active_count()
    reader = batches(([step] for step in range(10**9)), num_threads=4)
    next(reader)
    assert threading.active_count() > before
    reader.close()
    assert threading.active_count() == before


def test_there_is_a_thread_for_every_usable_core():
    assert default_threads() >= 1
