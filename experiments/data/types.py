"""What the loaders hand to the training loop."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from supjax.checks import listed


@dataclass(frozen=True)
class Augmentation:
    """How training images of an in-memory set are altered; evaluation images never are.

    Attributes:
      pad: pixels added on every side, of which a window of the original size is cut at random.
      flip: whether half of the images are mirrored left to right.
      pad_mode: `zero` (black before normalisation, as torchvision's `RandomCrop(padding=...)`) or
        `reflect` (what the reference code of Sup-tickets does on CIFAR-10, not on CIFAR-100).
    """

    pad: int = 0
    flip: bool = False
    pad_mode: str = "zero"

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be >= 0, got {self.pad}")
        if self.pad_mode not in ("zero", "reflect"):
            raise ValueError(f"pad_mode must be 'zero' or 'reflect', got {self.pad_mode!r}")


class Batch(NamedTuple):
    """Images with labels; the same for training and evaluation, in-memory and streamed.

    Attributes:
      images: `[B, H, W, C]`.
      labels: int32 `[B]`.
      weights: float32 `[B]`, 1 for an example and 0 for padding.
    """

    images: Any
    labels: Any
    weights: Any


class Split(NamedTuple):
    """All examples of one split in memory.

    Attributes:
      images: uint8 `[N, H, W, C]`.
      labels: int32 `[N]`.
    """

    images: Any
    labels: Any

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.labels)

    def take(self, places: Any) -> "Split":
        """Return the examples at these places."""
        return Split(self.images[places], self.labels[places])


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of every batch.

    Attributes:
      index: which share; may be traced.
      count: how many there are.
    """

    index: Any = 0
    count: int = 1

    def size(self, batch_size: int) -> int:
        """Return the examples of one share.

        Raises:
          ValueError: if the batch cannot be divided evenly.
        """
        if batch_size < 1 or batch_size % self.count:
            raise ValueError(
                f"batch_size must be a positive multiple of {self.count} shards, got {batch_size}"
            )
        return batch_size // self.count


WHOLE = Shard()


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """What in-memory and streamed sets have in common.

    Attributes:
      name: the set's name in TFDS, or `digits`.
      image_shape: `(height, width, channels)` of what the network sees.
      num_classes: labels are `0 ... num_classes - 1`.
      mean: per channel, of pixels scaled to 0..1.
      std: per channel, likewise.
      sizes: number of examples in `train`, `validation` and `test`.
      label_names: one name a class, or empty.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes: Mapping[str, int]
    label_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        channels = self.image_shape[-1]
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                f"{self.name} has {channels} channels, but mean {self.mean} and std {self.std}"
            )

    def split_size(self, split: str) -> int:
        """Return the number of examples of a split.

        Raises:
          ValueError: if there is no such split, or it is empty.
        """
        if split not in self.sizes:
            raise ValueError(f"split must be one of {listed(sorted(self.sizes))}, got {split!r}")
        if not self.sizes[split]:
            raise ValueError(f"the {split} split of {self.name} is empty")
        return self.sizes[split]

    def normalize(self, images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
        """Return (images / 255 - mean) / std, the network's input.

        Args:
          images: uint8 `[..., H, W, C]`, of training or evaluation batches.
          dtype: of the result; the arithmetic is in float32.
        """
        shape = (1,) * (images.ndim - 1) + (-1,)
        mean = jnp.asarray(self.mean, jnp.float32).reshape(shape)
        std = jnp.asarray(self.std, jnp.float32).reshape(shape)
        return ((images.astype(jnp.float32) / 255 - mean) / std).astype(dtype)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the whole batches of one epoch; up to `batch_size - 1` examples are left out.

        They are others every epoch, for every epoch has its own order.

        Raises:
          ValueError: if there is not one whole batch.
        """
        if not 1 <= batch_size <= self.sizes["train"]:
            raise ValueError(
                f"batch_size must be between 1 and {self.sizes['train']}, the training examples"
                f" of {self.name}, got {batch_size}"
            )
        return self.sizes["train"] // batch_size
