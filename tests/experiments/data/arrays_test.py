import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import (
    ArrayDataset,
    Augmentation,
    Shard,
    Split,
    epoch_permutation,
    stack_batches,
    train_batch,
)

COUNT, BATCH = 43, 8
SETTINGS = Augmentation(pad=2, flip=True)


def numbered_split(count=COUNT):
    """Images whose every pixel and label is the example's number."""
    numbers = np.arange(count)
    images = np.broadcast_to(numbers[:, None, None, None], (count, 5, 5, 3)).astype(np.uint8)
    return Split(images, numbers.astype(np.int32))


@pytest.fixture(scope="module")
def split():
    return jax.device_put(numbered_split())


@pytest.fixture(scope="module")
def one_batch(split):
    """`(seed, epoch, step) -> batch`, as the compiled loop calls it."""

    @jax.jit
    def batch(key, epoch, step):
        order = epoch_permutation(key, epoch, COUNT)
        return train_batch(key, split, order, epoch, step, batch_size=BATCH, augmentation=SETTINGS)

    return lambda seed, epoch, step: jax.device_get(batch(jax.random.key(seed), epoch, step))


def dataset(train=COUNT, validation=0, test=10, **changes):
    splits = {
        name: numbered_split(n)
        for name, n in {"train": train, "validation": validation, "test": test}.items()
    }
    fields = {
        "name": "numbers",
        "image_shape": (5, 5, 3),
        "num_classes": 256,
        "mean": (0.5, 0.25, 0.0),
        "std": (0.5, 0.5, 1.0),
        "sizes": {name: part.size for name, part in splits.items()},
        "augmentation": SETTINGS,
        **splits,
    }
    return ArrayDataset(**{**fields, **changes})


def test_every_epoch_has_its_own_order_of_all_examples():
    key = jax.random.key(0)
    orders = [np.asarray(epoch_permutation(key, epoch, COUNT)) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(COUNT))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])
    other_run = epoch_permutation(jax.random.key(1), 0, COUNT)
    assert not np.array_equal(orders[0], other_run)


def test_an_epoch_draws_no_example_twice_and_keeps_labels_with_images(one_batch):
    seen = []
    for step in range(COUNT // BATCH):
        batch = one_batch(0, 2, step)
        seen.extend(batch.labels)
        largest = batch.images.max(axis=(1, 2, 3))  # Padding is 0, everything else the number.
        np.testing.assert_array_equal(largest, batch.labels)
        np.testing.assert_array_equal(batch.weights, 1)
    assert len(set(seen)) == len(seen) == COUNT // BATCH * BATCH


def test_a_batch_depends_on_seed_epoch_and_step_alone(one_batch):
    def images(*place):
        return one_batch(*place).images

    np.testing.assert_array_equal(images(3, 1, 2), images(3, 1, 2))
    for other in ((4, 1, 2), (3, 2, 2), (3, 1, 3)):
        assert not np.array_equal(images(3, 1, 2), images(*other))


def test_the_draws_of_two_epochs_differ_for_the_same_examples(split):
    def batch(epoch):
        order = jnp.arange(COUNT)
        return train_batch(
            jax.random.key(0), split, order, epoch, 1, batch_size=BATCH, augmentation=SETTINGS
        )

    np.testing.assert_array_equal(batch(0).labels, batch(1).labels)
    assert not np.array_equal(batch(0).images, batch(1).images)


def test_one_device_and_four_see_the_same_images(split, one_batch):
    key = jax.random.key(5)
    order = epoch_permutation(key, 1, COUNT)

    def share(_, split, order):
        return train_batch(
            key,
            split,
            order,
            1,
            3,
            batch_size=BATCH,
            augmentation=SETTINGS,
            shard=Shard(jax.lax.axis_index("device"), 4),
        )

    shares = jax.pmap(share, axis_name="device", in_axes=(0, None, None))(
        jnp.zeros(4), split, order
    )
    whole = one_batch(5, 1, 3)
    for leaf, parts in zip(whole, jax.device_get(shares), strict=True):
        np.testing.assert_array_equal(leaf, parts.reshape(leaf.shape))


def test_batches_inside_a_scan_equal_single_ones(split, one_batch):
    key = jax.random.key(0)

    @jax.jit
    def run(order):
        def body(_, step):
            return None, train_batch(
                key, split, order, 0, step, batch_size=BATCH, augmentation=SETTINGS
            )

        return jax.lax.scan(body, None, jnp.arange(3))[1]

    stacked = jax.device_get(run(epoch_permutation(key, 0, COUNT)))
    for step in range(3):
        np.testing.assert_array_equal(stacked.images[step], one_batch(0, 0, step).images)


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (3, 8), (1, 4)])
def test_every_example_is_evaluated_exactly_once(count, batch_size, shards):
    data = numbered_split(count)
    parts = [stack_batches(data, batch_size, Shard(index, shards)) for index in range(shards)]
    assert len({part.labels.shape for part in parts}) == 1
    labels = np.concatenate([part.labels[part.weights == 1] for part in parts])
    np.testing.assert_array_equal(np.sort(labels), np.arange(count))
    for part in parts:
        assert set(np.unique(part.weights)) <= {0, 1}
        assert not part.images[part.weights == 0].any()
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int32


def test_weighted_means_do_not_depend_on_the_batch_size_under_pmap():
    data = numbered_split(10)
    results = []
    for batch_size in (4, 8, 12):
        batches = stack_batches(data, batch_size)
        shaped = jax.tree.map(
            lambda leaf: leaf.reshape(leaf.shape[0], 4, -1, *leaf.shape[2:]), batches
        )
        total = jax.pmap(
            lambda batch: jax.lax.psum(
                jnp.stack([(batch.labels * batch.weights).sum(), batch.weights.sum()]), "device"
            ),
            axis_name="device",
            in_axes=1,
        )(shaped)
        results.append(np.asarray(total[0]))
    np.testing.assert_array_equal(results, [[45, 10]] * 3)


def test_eval_batches_are_unaltered_and_in_order():
    data = dataset()
    batches = list(data.eval_batches("test", 4))
    assert [batch.weights.sum() for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(
        np.concatenate([batch.images for batch in batches])[:10], data.test.images
    )


def test_normalisation_is_that_of_the_formula_in_float32_and_then_cast():
    data = dataset()
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 5, 3)).astype(np.uint8)
    expected = (images / 255 - np.array(data.mean)) / np.array(data.std)
    np.testing.assert_allclose(data.normalize(jnp.asarray(images)), expected, atol=1e-6)
    half = data.normalize(jnp.asarray(images), jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, data.normalize(jnp.asarray(images)).astype(jnp.bfloat16))


def test_impossible_requests_are_refused():
    data = dataset()
    assert data.steps_per_epoch(BATCH) == 5
    for batch_size in (0, COUNT + 1):
        with pytest.raises(ValueError, match=f"between 1 and {COUNT}.*got {batch_size}"):
            data.steps_per_epoch(batch_size)
    with pytest.raises(ValueError, match="the validation split of numbers is empty"):
        data.split("validation")
    with pytest.raises(ValueError, match=r"one of \['test', 'train', 'validation'\], got 'dev'"):
        data.split("dev")
    with pytest.raises(ValueError, match="multiple of 4 shards, got 10"):
        stack_batches(data.test, 10, Shard(0, 4))
    with pytest.raises(ValueError, match="3 channels, but mean"):
        dataset(mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match="pad must be below the image's 5 pixels, got 5"):
        dataset(augmentation=Augmentation(pad=5))
