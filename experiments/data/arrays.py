"""In-memory sets: they live on the device as uint8 and are shuffled and augmented in the step."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import augment
from experiments.data.types import WHOLE, Augmentation, Batch, ImageDataset, Shard, Split


@dataclass(frozen=True, kw_only=True)
class ArrayDataset(ImageDataset):
    """A set that fits in memory.

    Attributes:
      train: examples to train on.
      validation: examples to choose by; may be empty.
      test: examples for the result.
      augmentation: of training images.
    """

    train: Split
    validation: Split
    test: Split
    augmentation: Augmentation

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.sizes:
            shape = getattr(self, name).images.shape[1:]
            if shape != self.image_shape:
                raise ValueError(
                    f"{self.name} must have one image shape, but {name} has {shape} beside"
                    f" {self.image_shape}"
                )
        if self.augmentation.pad >= min(self.image_shape[:2]):
            raise ValueError(
                f"pad must be below the image's {min(self.image_shape[:2])} pixels,"
                f" got {self.augmentation.pad}"
            )

    def split(self, name: str) -> Split:
        """Return the split `train`, `validation` or `test`.

        Raises:
          ValueError: if it is none of them, or has no examples.
        """
        self.split_size(name)
        return getattr(self, name)

    def eval_batches(self, split: str, batch_size: int, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield every example of a split once, un-augmented, in order.

        Args:
          split: `train`, `validation` or `test`.
          batch_size: B, over all shards.
          shard: which share of every batch is wanted, normally that of this process.

        Yields:
          Batches of `B / shard.count` uint8 NumPy images; padding has weight 0.
        """
        stacked = stack_batches(self.split(split), batch_size, shard)
        for step in range(len(stacked.labels)):
            yield jax.tree.map(lambda leaf, step=step: leaf[step], stacked)


def stack_batches(split: Split, batch_size: int, shard: Shard = WHOLE) -> Batch:
    """Cut a split into equal batches, the last one padded with examples of weight 0.

    Args:
      split: host arrays.
      batch_size: B, over all shards.
      shard: which share of every batch is wanted.

    Returns:
      A batch whose leaves have a leading step axis: images `[S, B / shard.count, H, W, C]`.

    >>> split = Split(np.zeros((5, 1, 1, 1), np.uint8), np.arange(5, dtype=np.int32))
    >>> stack_batches(split, 4).labels.tolist(), stack_batches(split, 4).weights.tolist()
    ([[0, 1, 2, 3], [4, 0, 0, 0]], [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    """
    size = shard.size(batch_size)
    count = len(split.labels)
    steps = -(-count // batch_size)
    positions = np.arange(steps * batch_size).reshape(steps, shard.count, size)[:, shard.index]
    real = positions < count
    index = np.where(real, positions, 0)
    return Batch(
        split.images[index] * real[..., None, None, None],
        split.labels[index] * real,
        real.astype(np.float32),
    )


def epoch_permutation(key: jax.Array, epoch: jax.Array | int, size: int) -> jax.Array:
    """Return the order of the training examples in one epoch.

    Args:
      key: typed PRNG key of the run's data; not consumed, the epoch is folded in.
      epoch: from 0; may be traced.
      size: number of training examples, N.

    Returns:
      int32 `[N]`, a permutation that depends on key and epoch alone.
    """
    order_key, _ = jax.random.split(jax.random.fold_in(key, epoch))
    return jax.random.permutation(order_key, size)


def train_batch(
    key: jax.Array,
    split: Split,
    permutation: jax.Array,
    epoch: jax.Array | int,
    step: jax.Array | int,
    *,
    batch_size: int,
    augmentation: Augmentation,
    shard: Shard = WHOLE,
) -> Batch:
    """Gather and augment one training batch, or one device's share of it.

    The draws are made for the whole batch and then cut, so that one device and many see the same
    images to the last bit. Nothing is remembered between calls: a run that resumes at a step needs
    no more than the step.

    Args:
      key: typed PRNG key of the run's data, as given to `epoch_permutation`; not consumed.
      split: the training examples, on the device.
      permutation: of this epoch.
      epoch: from 0; may be traced.
      step: of the epoch, from 0 to `steps_per_epoch - 1`; may be traced.
      batch_size: B, over all devices.
      augmentation: how images are altered.
      shard: this device's share, `Shard(jax.lax.axis_index(axis_name), num_devices)` under pmap.

    Returns:
      uint8 images `[B / shard.count, H, W, C]`, still to be normalised, with labels and weights 1.
    """
    size = shard.size(batch_size)
    start = step * batch_size + shard.index * size
    index = jax.lax.dynamic_slice_in_dim(permutation, start, size)
    _, augment_key = jax.random.split(jax.random.fold_in(key, epoch))
    draws = augment.draw(jax.random.fold_in(augment_key, step), batch_size, augmentation)
    images = augment.apply(split.images[index], augment.take_shard(draws, shard), augmentation)
    return Batch(images, split.labels[index], jnp.ones((size,), jnp.float32))
