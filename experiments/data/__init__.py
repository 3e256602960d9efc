"""Image data for the training loop: in memory on the device, or streamed through the host.

    dataset = load_dataset("cifar10", data_dir)

returns an `ArrayDataset` (arrays to put on the device; `epoch_permutation` and `train_batch` run
inside the compiled step) or, for ImageNet, a `StreamedDataset` (iterators of host batches, which
`prefetch_to_device` moves ahead of time). Both have the same metadata, `normalize`,
`steps_per_epoch` and `eval_batches`, and both yield `Batch(images, labels, weights)`.
"""

from experiments.data.arrays import ArrayDataset, epoch_permutation, stack_batches, train_batch
from experiments.data.feeding import prefetch_to_device
from experiments.data.loading import load_dataset
from experiments.data.streaming import StreamedDataset
from experiments.data.types import Augmentation, Batch, ImageDataset, Shard, Split

__all__ = [
    "ArrayDataset",
    "Augmentation",
    "Batch",
    "ImageDataset",
    "Shard",
    "Split",
    "StreamedDataset",
    "epoch_permutation",
    "load_dataset",
    "prefetch_to_device",
    "stack_batches",
    "train_batch",
]
