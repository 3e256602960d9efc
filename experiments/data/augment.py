"""Random crops and flips of a batch, as pure functions that run inside the compiled step.

A crop with padding is a change of row and column numbers: two gathers with one index vector an
image, and a mask for the zeros outside. That took 0.3 to 0.5 ms for 128 images of 32x32x3 on one
CPU, against 0.8 to 1.1 ms for sliced windows of padded images, 1.0 ms for products with one-hot
matrices and 30 to 60 ms for a selection among all offsets.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.data.types import Augmentation, Shard


class Draws(NamedTuple):
    """What is random about the augmentation of a batch.

    Attributes:
      offsets: int32 `[B, 2]`, first row and column of the window in the padded image.
      flips: bool `[B]`.
    """

    offsets: jax.Array
    flips: jax.Array


def draw(key: jax.Array, batch_size: int, augmentation: Augmentation) -> Draws:
    """Draw the augmentation of a whole batch: offsets uniform in 0 ... 2 pad, flips with 1/2.

    Args:
      key: typed PRNG key; consumed.
      batch_size: B, over all devices.
      augmentation: the settings.

    Returns:
      The draws; without `flip` none is flipped.
    """
    crop_key, flip_key = jax.random.split(key)
    offsets = jax.random.randint(crop_key, (batch_size, 2), 0, 2 * augmentation.pad + 1)
    if not augmentation.flip:
        return Draws(offsets, jnp.zeros((batch_size,), bool))
    return Draws(offsets, jax.random.bernoulli(flip_key, shape=(batch_size,)))


def take_shard(draws: Draws, shard: Shard) -> Draws:
    """Return one share of a batch's draws, so that no example's draw depends on the devices."""
    size = shard.size(len(draws.flips))
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, shard.index * size, size), draws
    )


def apply(images: jax.Array, draws: Draws, augmentation: Augmentation) -> jax.Array:
    """Pad, cut the window at its offset and mirror it.

    Args:
      images: uint8 `[B, H, W, C]`.
      draws: of the same batch.
      augmentation: the settings with which they were drawn.

    Returns:
      uint8 `[B, H, W, C]`.

    >>> image = jnp.arange(1, 5, dtype=jnp.uint8).reshape(1, 2, 2, 1)
    >>> draws = Draws(jnp.array([[0, 1]]), jnp.array([True]))
    >>> apply(image, draws, Augmentation(pad=1, flip=True))[0, :, :, 0].tolist()
    [[0, 0], [2, 1]]
    """
    if not augmentation.pad and not augmentation.flip:
        return images
    _, height, width, _ = images.shape
    shift = draws.offsets - augmentation.pad
    rows = jnp.arange(height)[None, :] + shift[:, :1]
    columns = jnp.arange(width)[None, :]
    columns = jnp.where(draws.flips[:, None], width - 1 - columns, columns) + shift[:, 1:]
    if augmentation.pad_mode == "reflect":
        rows, columns = _reflect(rows, height), _reflect(columns, width)
    inside_rows = (rows >= 0) & (rows < height)
    inside_columns = (columns >= 0) & (columns < width)
    images = jnp.take_along_axis(images, jnp.clip(rows, 0, height - 1)[:, :, None, None], axis=1)
    images = jnp.take_along_axis(images, jnp.clip(columns, 0, width - 1)[:, None, :, None], axis=2)
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    return jnp.where(inside[..., None], images, jnp.zeros_like(images))


def _reflect(index: jax.Array, size: int) -> jax.Array:
    """Mirror indices at the first and the last pixel, which are not repeated."""
    index = jnp.abs(index)
    return jnp.where(index < size, index, 2 * (size - 1) - index)
