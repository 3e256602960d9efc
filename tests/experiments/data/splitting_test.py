import numpy as np
import pytest

from experiments.data.splitting import divide, split_roles


@pytest.mark.parametrize(("count", "validation"), [(10, 3), (1442, 144), (2, 1), (7, 0)])
def test_every_example_is_on_one_side(count, validation):
    kept, held_out = divide(count, validation)
    assert len(held_out) == validation
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(count))


def test_a_tenth_is_held_out_unless_told_otherwise():
    kept, held_out = divide(50_000)
    assert (len(kept), len(held_out)) == (45_000, 5_000)


def test_the_division_is_the_same_for_ever():
    assert divide(20, 5)[1].tolist() == [2, 3, 14, 15, 17]


def test_smaller_divisions_are_parts_of_larger_ones():
    assert set(divide(100, 10)[1]) < set(divide(100, 30)[1])
    assert set(divide(100, 10, 20)[0]) < set(divide(100, 10, 50)[0])


def test_a_limited_training_set_never_meets_the_validation_examples():
    kept, held_out = divide(100, 40, 60)
    assert not set(kept) & set(held_out)
    assert len(divide(100, 40, 7)[0]) == 7


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((10, None), "validation_size must be between 0 and 9, got 10"),
        ((-1, None), "validation_size must be between 0 and 9, got -1"),
        ((4, 7), "train_size must be between 1 and 6, got 7"),
        ((4, 0), "train_size must be between 1 and 6, got 0"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        divide(10, *sizes)


@pytest.mark.parametrize(
    ("name", "available", "validation_size", "roles"),
    [
        ("cifar10", ["train", "test"], None, ("test", None)),
        ("some_set", ["train", "validation", "test"], None, ("test", "validation")),
        ("some_set", ["train", "validation", "test"], 5, ("test", None)),
        ("some_set", ["train", "validation"], None, ("validation", None)),
        ("imagenet2012", ["train", "validation", "test"], None, ("validation", None)),
    ],
)
def test_what_splits_are_used_for(name, available, validation_size, roles):
    assert split_roles(name, available, validation_size) == roles


@pytest.mark.parametrize("available", [["train"], ["test"], ["validation"], []])
def test_a_set_needs_something_to_train_on_and_to_test_on(available):
    with pytest.raises(ValueError, match="some_set needs a train and a"):
        split_roles("some_set", available, None)
