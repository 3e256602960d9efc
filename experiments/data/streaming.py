"""Streamed sets: images are read from disk, decoded and augmented on the host while devices train.

Everything about an example follows from (seed, epoch, its index in TFDS's set), and the batch of a
step from the step, so an iterator can be made at any step without going through those before it.
"""

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from experiments.data.checks import CorruptImageError, DataError
from experiments.data.threaded import Loaded, load_batches
from experiments.data.types import WHOLE, Batch, ImageDataset, Shard

_POLICIES = ("skip", "error")


@dataclass(frozen=True)
class Examples:
    """Random access to the encoded examples of one split.

    Attributes:
      source: `index -> example`, TFDS's data source with undecoded images.
      index: which examples of the source belong to the split, `[N]`.
      image_key: the image's feature.
      label_key: the label's feature.
    """

    source: Any
    index: np.ndarray
    image_key: str
    label_key: str

    def read(self, position: int) -> tuple[bytes, int]:
        """Return the image file and the label of the example at a position of the split."""
        example = self.source[int(self.index[position])]
        return example[self.image_key], int(example[self.label_key])


class Decoder(Protocol):
    """From image files to what the network sees; both raise `CorruptImageError`."""

    def train(self, data: bytes, rng: np.random.Generator) -> np.ndarray:
        """Return an augmented image, uint8 `[H, W, C]`; the generator is consumed."""
        ...

    def evaluate(self, data: bytes) -> np.ndarray:
        """Return the image as it is evaluated, uint8 `[H, W, C]`."""
        ...


class _Job(NamedTuple):
    """What a worker is to load: an example, and for training the epoch whose crop it gets."""

    position: int
    epoch: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamedDataset(ImageDataset):
    """A set that is read from disk as it is needed.

    Attributes:
      examples: by split.
      decoder: of its image files.
      on_corrupt: `skip` replaces an image that cannot be decoded by the next one in training and
        leaves it out of an evaluation, with a warning that counts; `error` raises.
    """

    examples: Mapping[str, Examples]
    decoder: Decoder
    on_corrupt: str = "skip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_corrupt not in _POLICIES:
            raise ValueError(f"on_corrupt must be one of {_POLICIES}, got {self.on_corrupt!r}")

    def train_batches(
        self,
        seed: int,
        batch_size: int,
        *,
        start_step: int = 0,
        shard: Shard = WHOLE,
        num_threads: int | None = None,
        ahead: int = 2,
    ) -> Iterator[Batch]:
        """Yield the training batches from a step on, without end.

        Every epoch has its own order, and every example its own crop and flip in every epoch.

        Args:
          seed: of the run.
          batch_size: B, over all processes.
          start_step: the first step wanted, counted from the beginning of the run.
          shard: which share of every batch this process takes.
          num_threads: decoding threads, one a core if None.
          ahead: batches decoded ahead.

        Yields:
          Host batches of `B / shard.count` uint8 images `[size, size, 3]`; weights are 1.

        Raises:
          ValueError: if `batch_size` does not fit the set or the shards.
        """
        steps_per_epoch = self.steps_per_epoch(batch_size)
        size = shard.size(batch_size)
        order = functools.lru_cache(maxsize=2)(functools.partial(self._epoch_order, seed))

        def jobs() -> Iterator[Sequence[_Job]]:
            step = start_step
            while True:
                epoch, step_of_epoch = divmod(step, steps_per_epoch)
                start = step_of_epoch * batch_size + shard.index * size
                yield [_Job(int(place), epoch) for place in order(epoch)[start : start + size]]
                step += 1

        load = functools.partial(self._load_train, seed)
        return self._load(jobs(), load, num_threads, ahead)

    def eval_batches(
        self,
        split: str,
        batch_size: int,
        *,
        shard: Shard = WHOLE,
        num_threads: int | None = None,
        ahead: int = 2,
    ) -> Iterator[Batch]:
        """Yield every example of a split once, un-augmented, in order.

        Args:
          split: `train`, `validation` or `test`.
          batch_size: B, over all processes.
          shard: which share of every batch this process takes; all get the same number of batches.
          num_threads: decoding threads, one a core if None.
          ahead: batches decoded ahead.

        Yields:
          Host batches of `B / shard.count` uint8 images; padding has weight 0.

        Raises:
          ValueError: if the split does not exist or has no examples, or B cannot be divided.
        """
        count, size = self.split_size(split), shard.size(batch_size)
        jobs = (
            [_Job(position) for position in range(start, start + size)]
            for start in range(shard.index * size, count + shard.index * size, batch_size)
        )
        load = functools.partial(self._load_eval, split, count)
        return self._load(jobs, load, num_threads, ahead)

    def _epoch_order(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(self.sizes["train"])

    def _load(self, jobs: Any, load: Any, num_threads: int | None, ahead: int) -> Iterator[Batch]:
        skipped = 0

        def warn(note: str) -> None:
            nonlocal skipped
            skipped += 1
            warnings.warn(f"{note}; skipped ({skipped} so far)", stacklevel=2)

        return load_batches(
            jobs, load, self.image_shape, on_note=warn, num_threads=num_threads, ahead=ahead
        )

    def _load_train(self, seed: int, job: _Job) -> Loaded:
        notes: list[str] = []
        count = self.sizes["train"]
        for place in range(job.position, job.position + count):
            position = place % count
            data, label = self._read("train", position)
            # The 1 keeps this apart from the key of the epoch's order, which is padded with zeros.
            key = (seed, job.epoch, int(self.examples["train"].index[position]), 1)
            try:
                image = self.decoder.train(data, np.random.default_rng(key))
                return Loaded(image, label, tuple(notes))
            except CorruptImageError as error:
                notes.append(self._corrupt("train", position, error))
        raise CorruptImageError(f"no training image of {self.name} can be decoded")

    def _load_eval(self, split: str, count: int, job: _Job) -> Loaded:
        if job.position >= count:
            return Loaded(None)
        data, label = self._read(split, job.position)
        try:
            return Loaded(self.decoder.evaluate(data), label)
        except CorruptImageError as error:
            return Loaded(None, notes=(self._corrupt(split, job.position, error),))

    def _read(self, split: str, position: int) -> tuple[bytes, int]:
        data, label = self.examples[split].read(position)
        if not 0 <= label < self.num_classes:
            raise DataError(
                f"label {label} of {self._place(split, position)} is outside"
                f" 0..{self.num_classes - 1}"
            )
        return data, label

    def _place(self, split: str, position: int) -> str:
        return f"{self.name}, {split} split, example {self.examples[split].index[position]} in TFDS"

    def _corrupt(self, split: str, position: int, error: Exception) -> str:
        message = f"{self._place(split, position)} is corrupt: {error}"
        if self.on_corrupt == "error":
            raise CorruptImageError(message) from error
        return message
