"""A whole epoch with the data on the device, against batches that the host feeds step by step.

    python -m benchmarks.epoch [--toy] [--output runs/benchmarks/epoch.json]

All contenders train the same small network on the same batches, in the same order and not
augmented, with the run's own sparse training step. The data set is either on the device as uint8
and every step gathers its batch there (the run's own steps, with a dispatch for every step or one
for the whole epoch), or in host memory, where NumPy gathers every batch and `jax.device_put` moves
it: plainly, or two batches ahead of the step as streamed sets are fed. The digits, then synthetic
images of CIFAR's shape with LeNet-300-100; the networks are small, so that feeding shows (and
XLA's CPU backend runs larger convolutions inside a loop many times slower). No topology step or
evaluation is timed. About 1 minute on 2 CPU cores.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.common import Timing, milliseconds, print_table, time_interleaved, write_json
from experiments.configs import digits
from experiments.data.arrays import ArrayDataset, epoch_permutation
from experiments.data.feeding import prefetch_to_device
from experiments.data.types import Augmentation, Batch, Shard, Split
from experiments.run.build import RunParts, build, open_dataset
from experiments.run.initial import initial_state
from experiments.run.resident import DATA_KEY, ResidentSource
from experiments.run.seed_axis import SeedAxis
from experiments.run.steps import Placement, Steps

STEPWISE, FUSED = "on the device", "on the device, one dispatch"
PLAIN, AHEAD = "from the host", "from the host, two ahead"
SEED = 0


def synthetic_cifar(examples: int) -> ArrayDataset:
    """Random images of CIFAR's shape with random labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, examples, np.int32)
    train = Split(generator.integers(0, 256, (examples, 32, 32, 3), np.uint8), labels)
    return ArrayDataset(
        name="synthetic",
        image_shape=(32, 32, 3),
        num_classes=10,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        sizes={"train": examples, "validation": 0, "test": 0},
        train=train,
        validation=train.take(slice(0)),
        test=train.take(slice(0)),
        augmentation=Augmentation(),
    )


def workloads(toy: bool) -> dict[str, tuple[Any, ArrayDataset]]:
    """Config and data set by name; the network is a narrow one."""
    small = digits.get_config("augment=false,width=0.25")
    images = digits.get_config("augment=false,model=lenet_300_100,batch_size=128")
    if toy:
        small.model.update({"name": "lenet_300_100", "width": 0.05})
        images.model.width = 0.05
    dataset = open_dataset(small)
    assert isinstance(dataset, ArrayDataset)
    return {
        f"digits, {small.model.name}": (small, dataset),
        f"32 x 32 x 3, {images.model.name}": (images, synthetic_cifar(512 if toy else 20_000)),
    }


class Resident:
    """Epochs of the run's own steps."""

    def __init__(self, parts: RunParts, fused: bool) -> None:
        self._steps = Steps(parts, resident(parts, fused), Placement(1), SeedAxis([SEED]))
        self.state = initial_state(parts, self._steps.source, SEED)
        self._done, self._count = 0, parts.steps_per_epoch

    def __call__(self) -> Any:
        """Train one further epoch."""
        self._done += self._count
        self.state = self._steps.advance(self.state, self._done)
        return self.state.train.params


class Fed(ResidentSource):
    """The same batches from host arrays, one for every step; a source of its own kind."""

    seeded = None

    def __init__(self, parts: RunParts, ahead: bool) -> None:
        dataset = parts.dataset
        assert isinstance(dataset, ArrayDataset)
        seeds, placement = SeedAxis([SEED]), Placement(1)
        super().__init__(
            dataset, placement, seeds, batch_size=parts.batch_size, augment=False, fused=False
        )
        self._images, self._ahead = dataset, ahead
        self._count, self._size = parts.steps_per_epoch, parts.batch_size
        self._root = jax.random.fold_in(jax.random.key(SEED), DATA_KEY)
        self._shuffled = jax.jit(lambda i: epoch_permutation(self._root, i, dataset.train.size))
        self._fed: Iterator[Batch] = iter(())
        self._steps = Steps(parts, self, placement, seeds)
        self.state, self._done = initial_state(parts, self, SEED), 0

    def data(self, step: int) -> Any:
        """Return a batch on the device."""
        if step % self._count == 0:
            batches = self._batches(step // self._count)
            self._fed = prefetch_to_device(batches) if self._ahead else map(jax.device_put, batches)
        return next(self._fed)

    def train_batch(self, data: Any, step: jax.Array, shard: Shard) -> Batch:
        """Return the batch, normalized."""
        del step, shard
        return data._replace(images=self._images.normalize(data.images))

    def _batches(self, epoch: int) -> Iterator[Batch]:
        order = np.asarray(self._shuffled(epoch))
        weights = np.ones(self._size, np.float32)
        for step in range(self._count):
            examples = self._images.train.take(order[step * self._size : (step + 1) * self._size])
            yield Batch(examples.images, examples.labels, weights)

    def __call__(self) -> Any:
        """Train one further epoch."""
        self._done += self._count
        self.state = self._steps.advance(self.state, self._done)
        return self.state.train.params


def resident(parts: RunParts, fused: bool) -> ResidentSource:
    """The run's source on one device."""
    assert isinstance(parts.dataset, ArrayDataset)
    return ResidentSource(
        parts.dataset,
        Placement(1),
        SeedAxis([SEED]),
        batch_size=parts.batch_size,
        augment=parts.augment,
        fused=fused,
    )


def contenders(config: Any, dataset: ArrayDataset) -> dict[str, Callable[[], Any]]:
    """Name -> function that trains one further epoch and returns the weights."""
    parts = build(config, dataset)
    return {
        STEPWISE: Resident(parts, fused=False),
        FUSED: Resident(parts, fused=True),
        PLAIN: Fed(parts, ahead=False),
        AHEAD: Fed(parts, ahead=True),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.epoch")
    parser.add_argument("--toy", action="store_true", help="tiny networks, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/epoch.json"))
    flags = parser.parse_args(arguments)
    repetitions, budget = (3, 1.0) if flags.toy else (30, 12.0)
    times: dict[str, dict[str, Timing]] = {}
    for name, (config, dataset) in workloads(flags.toy).items():
        print("timing", name, file=sys.stderr)
        times[name] = time_interleaved(contenders(config, dataset), repetitions, budget)
    print("Milliseconds an epoch, median (least to most), and what share of the epoch feeding adds")
    print_table(
        ["", "", "median", "least to most", "times on the device", "share"],
        [
            [
                workload,
                contender,
                *milliseconds(timing),
                f"{timing.median / taken[STEPWISE].median:.3f}",
                f"{100 * (1 - taken[STEPWISE].median / timing.median):.1f} %",
            ]
            for workload, taken in times.items()
            for contender, timing in taken.items()
        ],
    )
    ratios = {
        f"{workload}: {contender} / {STEPWISE}": timing.median / taken[STEPWISE].median
        for workload, taken in times.items()
        for contender, timing in taken.items()
        if contender != STEPWISE
    }
    write_json(flags.output, {"seconds_an_epoch": times, "ratios": ratios})


if __name__ == "__main__":
    main()
