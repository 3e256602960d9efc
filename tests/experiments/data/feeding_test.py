import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import Batch, prefetch_to_device


def make_batch(step, size=8):
    labels = np.arange(step * size, (step + 1) * size, dtype=np.int32)
    images = np.broadcast_to(labels[:, None, None, None], (size, 3, 3, 1)).astype(np.uint8)
    return Batch(images, labels, np.ones(size, np.float32))


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_all_batches_arrive_in_order_on_the_device(ahead):
    found = list(prefetch_to_device((make_batch(step) for step in range(3)), ahead=ahead))
    assert len(found) == 3
    for step, batch in enumerate(found):
        assert isinstance(batch.images, jax.Array)
        jax.tree.map(np.testing.assert_array_equal, batch, make_batch(step))


def test_batches_are_moved_before_they_are_asked_for():
    drawn = []

    def batches():
        for step in range(10):
            drawn.append(step)
            yield make_batch(step)

    next(prefetch_to_device(batches(), ahead=2))
    assert drawn == [0, 1, 2]


def test_several_devices_get_their_shares_and_pmap_takes_them_as_they_are():
    devices = jax.local_devices()[:4]
    (batch,) = prefetch_to_device([make_batch(0)], devices=devices)
    assert batch.images.shape == (4, 2, 3, 3, 1)
    for shard in batch.labels.addressable_shards:
        np.testing.assert_array_equal(shard.data[0], [2 * shard.device.id, 2 * shard.device.id + 1])
    total = jax.pmap(lambda part: jax.lax.psum(jnp.sum(part.labels), "d"), axis_name="d")(batch)
    np.testing.assert_array_equal(total, [28] * 4)
