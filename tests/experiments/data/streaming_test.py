import dataclasses
import itertools
import warnings

import numpy as np
import pytest

from experiments.data import ImageDataset, Shard, StreamedDataset, load_dataset
from experiments.data.checks import CorruptImageError

BATCH, SIZE = 8, 16
NUM_TRAIN, NUM_TEST = 23, 7
STEPS = NUM_TRAIN // BATCH


@pytest.fixture(scope="module")
def dataset(tiny_folders):
    return load_dataset("tiny_folders", tiny_folders, validation_size=0, image_size=SIZE)


class NumberDecoder:
    """Shows the position of an example and a random number instead of its image."""

    def __init__(self, numbers, broken=()):
        self.numbers = dict(numbers)
        self.broken = set(broken)

    def _number(self, data):
        number = self.numbers[data]
        if number in self.broken:
            raise CorruptImageError("made so")
        return number

    def train(self, data, rng):
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        image[0, 0] = self._number(data), *rng.integers(0, 256, 2)
        return image

    def evaluate(self, data):
        return np.full((SIZE, SIZE, 3), self._number(data), np.uint8)


def with_numbers(dataset, split="train", **options):
    examples = dataset.examples[split]
    numbers = [(examples.read(place)[0], place) for place in range(len(examples.index))]
    fields = {"broken": options.pop("broken", ())}
    return dataclasses.replace(dataset, decoder=NumberDecoder(numbers, **fields), **options)


@pytest.fixture(scope="module")
def numbered(dataset):
    return with_numbers(dataset)


def take(iterator, count):
    found = list(itertools.islice(iterator, count))
    iterator.close()
    return found


def numbers_of(batches):
    return np.concatenate([batch.images[:, 0, 0, 0] for batch in batches])


def assert_same(left, right):
    for ours, theirs in zip(left, right, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_a_streamed_set_has_the_interface_of_all_sets(dataset):
    assert isinstance(dataset, StreamedDataset)
    assert isinstance(dataset, ImageDataset)
    assert dataset.sizes == {"train": NUM_TRAIN, "validation": 0, "test": NUM_TEST}
    assert dataset.image_shape == (SIZE, SIZE, 3)
    assert dataset.label_names == ("class_0", "class_1", "class_2")
    assert dataset.steps_per_epoch(BATCH) == STEPS


def test_batches_hold_images_with_their_labels(dataset):
    (batch,) = take(dataset.train_batches(0, BATCH), 1)
    assert batch.images.shape == (BATCH, SIZE, SIZE, 3)
    assert (batch.images.dtype, batch.labels.dtype) == (np.uint8, np.int32)
    assert batch.images.std() > 10
    np.testing.assert_array_equal(batch.weights, 1)
    examples = dataset.examples["train"]
    numbered = with_numbers(dataset)
    (batch,) = take(numbered.train_batches(0, BATCH), 1)
    expected = [examples.read(int(number))[1] for number in batch.images[:, 0, 0, 0]]
    np.testing.assert_array_equal(batch.labels, expected)


def test_an_epoch_draws_no_example_twice_and_the_next_one_others_in_another_order(numbered):
    batches = take(numbered.train_batches(0, BATCH), 2 * STEPS)
    first, second = numbers_of(batches[:STEPS]), numbers_of(batches[STEPS:])
    assert len(set(first)) == len(set(second)) == STEPS * BATCH
    assert not np.array_equal(first, second)


def test_every_example_is_cut_anew_in_every_epoch(numbered):
    draws = {}
    for batch in take(numbered.train_batches(0, BATCH), 3 * STEPS):
        for number, *draw in batch.images[:, 0, 0].tolist():
            draws.setdefault(number, []).append(tuple(draw))
    repeated = [found for found in draws.values() if len(found) > 1]
    assert repeated
    assert all(len(set(found)) == len(found) for found in repeated)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_run_depends_on_its_seed_alone(dataset, num_threads):
    first = take(dataset.train_batches(5, BATCH), 3)
    assert_same(first, take(dataset.train_batches(5, BATCH, num_threads=num_threads), 3))
    other = take(dataset.train_batches(6, BATCH), 3)
    assert not np.array_equal(first[0].images, other[0].images)


@pytest.mark.parametrize("start", [0, 1, STEPS, STEPS + 1, 3 * STEPS])
def test_a_run_resumed_at_any_step_goes_on_as_if_uninterrupted(dataset, start):
    whole = take(dataset.train_batches(0, BATCH), start + 2)
    assert_same(whole[start:], take(dataset.train_batches(0, BATCH, start_step=start), 2))


def test_resuming_reads_nothing_of_the_steps_before(dataset):
    reads = []

    class Watched:
        def __init__(self, source):
            self.source = source

        def __getitem__(self, index):
            reads.append(index)
            return self.source[index]

    train = dataset.examples["train"]
    watched = dataclasses.replace(train, source=Watched(train.source))
    resumed = dataclasses.replace(dataset, examples={**dataset.examples, "train": watched})
    take(resumed.train_batches(0, BATCH, start_step=10**6, ahead=0), 1)
    assert len(reads) <= 2 * BATCH


@pytest.mark.parametrize("shards", [2, 4])
def test_the_shards_of_all_processes_make_up_the_batches_of_one(dataset, numbered, shards):
    whole = take(dataset.train_batches(0, BATCH), STEPS)
    parts = [
        take(dataset.train_batches(0, BATCH, shard=Shard(index, shards)), STEPS)
        for index in range(shards)
    ]
    for step, batch in enumerate(whole):
        for field, leaf in enumerate(batch):
            joined = np.concatenate([part[step][field] for part in parts])
            np.testing.assert_array_equal(leaf, joined)
    seen = [
        set(numbers_of(take(numbered.train_batches(0, BATCH, shard=Shard(index, shards)), STEPS)))
        for index in range(shards)
    ]
    assert len(set.union(*seen)) == sum(map(len, seen)) == STEPS * BATCH


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 8])
def test_every_example_is_evaluated_exactly_once(dataset, batch_size, shards):
    numbered = with_numbers(dataset, "test")
    parts = [
        list(numbered.eval_batches("test", batch_size, shard=Shard(index, shards)))
        for index in range(shards)
    ]
    assert {len(part) for part in parts} == {-(-NUM_TEST // batch_size)}
    batches = list(itertools.chain(*parts))
    seen = np.concatenate([batch.images[batch.weights == 1][:, 0, 0, 0] for batch in batches])
    np.testing.assert_array_equal(np.sort(seen), np.arange(NUM_TEST))
    assert sum(batch.weights.sum() for batch in batches) == NUM_TEST


def test_evaluation_is_not_random(dataset):
    assert_same(dataset.eval_batches("test", 4), dataset.eval_batches("test", 4))


def test_validation_examples_are_never_trained_on(tiny_folders):
    data = load_dataset("tiny_folders", tiny_folders, validation_size=6, image_size=SIZE)
    assert data.sizes == {"train": NUM_TRAIN - 6, "validation": 6, "test": NUM_TEST}
    held_out, kept = data.examples["validation"].index, data.examples["train"].index
    assert sorted([*held_out, *kept]) == list(range(NUM_TRAIN))
    batches = list(data.eval_batches("validation", 4))
    assert sum(batch.weights.sum() for batch in batches) == 6


def test_a_corrupt_training_image_is_replaced_with_a_warning_that_counts(dataset):
    broken = with_numbers(dataset, broken=[3, 4, 11])
    with pytest.warns(UserWarning, match="is corrupt: made so; skipped") as told:
        batches = take(broken.train_batches(0, NUM_TRAIN, ahead=0), 1)
    counts = [int(str(w.message).split("(")[1].split()[0]) for w in told]
    assert counts == list(range(1, len(counts) + 1))
    assert len(counts) == 4  # Example 3 is followed by another corrupt one.
    numbers = numbers_of(batches)
    assert not set(numbers) & {3, 4, 11}
    assert np.bincount(numbers)[5] == 3
    assert np.bincount(numbers)[12] == 2
    np.testing.assert_array_equal(batches[0].weights, 1)


def test_a_corrupt_image_is_left_out_of_an_evaluation_with_a_warning(dataset):
    broken = with_numbers(dataset, "test", broken=[2])
    with pytest.warns(
        UserWarning, match=r"example 2 in TFDS is corrupt: made so; skipped \(1 so far\)"
    ):
        batches = list(broken.eval_batches("test", 4))
    assert [batch.weights.tolist() for batch in batches] == [[1, 1, 0, 1], [1, 1, 1, 0]]


def test_corrupt_images_can_be_errors(dataset):
    broken = with_numbers(dataset, broken=[3], on_corrupt="error")
    with pytest.raises(CorruptImageError, match="tiny_folders, train split, example 3 in TFDS is"):
        take(broken.train_batches(0, NUM_TRAIN), 1)
    broken = with_numbers(dataset, "test", broken=[6], on_corrupt="error")
    with pytest.raises(CorruptImageError, match="tiny_folders, test split, example 6 in TFDS is"):
        list(broken.eval_batches("test", 4))


def test_a_set_without_one_readable_image_is_an_error_and_no_endless_search(dataset):
    broken = with_numbers(dataset, broken=range(NUM_TRAIN))
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(CorruptImageError, match="no training image of tiny_folders"),
    ):
        take(broken.train_batches(0, BATCH), 1)


def test_a_label_out_of_range_is_an_error_under_every_policy(dataset):
    narrow = dataclasses.replace(dataset, num_classes=2)
    with pytest.raises(ValueError, match=r"label 2 of .* train split, .* outside 0\.\.1"):
        take(narrow.train_batches(0, NUM_TRAIN), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: data.train_batches(0, 24), "batch_size must be between 1 and 23"),
        (lambda data: data.train_batches(0, 9, shard=Shard(0, 2)), "multiple of 2 shards, got 9"),
        (lambda data: data.eval_batches("validation", 4), "the validation split of .* is empty"),
        (lambda data: data.eval_batches("dev", 4), "split must be one of"),
        (lambda data: dataclasses.replace(data, on_corrupt="ignore"), "one of .*got 'ignore'"),
    ],
)
def test_impossible_requests_are_refused_when_made(dataset, call, message):
    with pytest.raises(ValueError, match=message):
        call(dataset)


def test_an_impossible_image_size_is_refused(tiny_folders):
    with pytest.raises(ValueError, match="image_size must be positive, got 0"):
        load_dataset("tiny_folders", tiny_folders, image_size=0)
