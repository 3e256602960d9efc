import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import augment
from experiments.data.types import Augmentation, Shard

CIFAR = Augmentation(pad=4, flip=True)
MANY = 20_000


def reference(image, offset, flip, pad, pad_mode):
    """The same on one image, as torchvision's transforms are described: pad, cut, mirror."""
    mode = "constant" if pad_mode == "zero" else "reflect"
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    height, width, _ = image.shape
    window = padded[offset[0] : offset[0] + height, offset[1] : offset[1] + width]
    return window[:, ::-1] if flip else window


@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 10, 3), (32, 32, 3), (6, 5, 4)])
def test_equals_padding_then_cutting_then_mirroring(shape, pad_mode):
    settings = Augmentation(pad=3, flip=True, pad_mode=pad_mode)
    images = np.random.default_rng(0).integers(0, 256, (40, *shape)).astype(np.uint8)
    draws = augment.draw(jax.random.key(1), 40, settings)
    result = augment.apply(jnp.asarray(images), draws, settings)
    expected = [
        reference(image, offset, flip, 3, pad_mode)
        for image, offset, flip in zip(images, *map(np.asarray, draws), strict=True)
    ]
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == jnp.uint8


def test_padding_is_black_pixels_where_the_window_leaves_the_image():
    images = jnp.full((1, 4, 4, 2), 200, jnp.uint8)
    draws = augment.Draws(jnp.array([[0, 3]]), jnp.array([False]))
    result = augment.apply(images, draws, Augmentation(pad=2))[0, :, :, 0]
    np.testing.assert_array_equal(
        result, [[0, 0, 0, 0], [0, 0, 0, 0], [200, 200, 200, 0], [200, 200, 200, 0]]
    )


def test_offsets_are_uniform_over_all_windows():
    offsets = np.asarray(augment.draw(jax.random.key(0), MANY, CIFAR).offsets)
    counts = np.zeros((9, 9))
    np.add.at(counts, tuple(offsets.T), 1)
    expected = MANY / 81
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 80 + 5 * np.sqrt(2 * 80)


def test_half_of_the_images_are_mirrored_independently_of_the_offsets():
    draws = augment.draw(jax.random.key(3), MANY, CIFAR)
    flips = np.asarray(draws.flips)
    assert abs(flips.mean() - 0.5) < 5 * 0.5 / np.sqrt(MANY)
    for axis in range(2):
        correlation = np.corrcoef(flips, np.asarray(draws.offsets)[:, axis])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(MANY)


def test_without_flip_nothing_is_mirrored_and_without_padding_nothing_moves():
    draws = augment.draw(jax.random.key(0), 50, Augmentation(pad=2))
    assert not draws.flips.any()
    images = jnp.arange(50 * 4, dtype=jnp.uint8).reshape(50, 2, 2, 1)
    still = Augmentation()
    unchanged = augment.apply(images, augment.draw(jax.random.key(0), 50, still), still)
    np.testing.assert_array_equal(unchanged, images)


def test_shards_of_the_draws_make_up_the_draws_of_the_batch():
    whole = augment.draw(jax.random.key(0), 12, CIFAR)
    shares = [augment.take_shard(whole, Shard(index, 4)) for index in range(4)]
    for leaf, *parts in zip(whole, *shares, strict=True):
        np.testing.assert_array_equal(leaf, np.concatenate(parts))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"pad": -1}, "pad must be >= 0, got -1"), ({"pad_mode": "edge"}, "got 'edge'")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**settings)
