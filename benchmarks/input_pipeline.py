"""How fast images reach the training step: decoding beside Pillow and tf.data, and augmentation.

    python -m benchmarks.input_pipeline --data_dir=DIR [--toy] [--output FILE]

Three tables. Decoding: the training examples of a prepared `imagenet2012` (any part of it) in
memory, the same random-resized crops for every contender, in turn; images per second of processor
time, so per core. Loading: whole batches from the prepared set through the worker threads, with
supjax's decoder and with Pillow's. Augmentation: the compiled batch of an in-memory set beside a
train step of ResNet-32, batch 128. tf.data takes part where TensorFlow can be imported, which
nothing else here needs. `--toy` makes its own images. About 3 minutes on 2 CPU cores.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import supjax
from benchmarks.common import milliseconds_cell, print_table, time_interleaved, write_json
from benchmarks.decoders import BASE, OURS, pillow_image, prepare
from experiments.data import (
    Augmentation,
    Split,
    StreamedDataset,
    epoch_permutation,
    load_dataset,
    train_batch,
)
from experiments.data.catalog import KNOWN_SETS
from experiments.data.crops import random_resized_box
from experiments.data.decoding import SquareDecoder
from experiments.data.importing import read_source, write_tfds
from experiments.data.jpeg import image_size
from experiments.data.threaded import default_threads
from experiments.models import create_model
from supjax.training import create_train_state, make_train_step

TRAIN_STEP = "train step"


class Rate(NamedTuple):
    """Images per second.

    Attributes:
      core: of processor time, median of the rounds.
      least: of processor time, the slowest round.
      most: of processor time, the fastest round.
      wall: of time that passed, median.
    """

    core: float
    least: float
    most: float
    wall: float


def measure_rates(
    contenders: Mapping[str, Callable[[], Any]], images: int, rounds: int
) -> dict[str, Rate]:
    """Runs contenders in turn, so that a change of the machine's load meets all of them.

    Args:
      contenders: name -> function that makes `images` images; called once before.
      images: per call.
      rounds: timed calls of every function.

    Returns:
      name -> rates; processor time is that of all threads of this process.
    """
    for function in contenders.values():
        function()
    core: dict[str, list[float]] = {name: [] for name in contenders}
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, function in contenders.items():
            started, used = time.perf_counter(), time.process_time()
            function()
            core[name].append(images / (time.process_time() - used))
            wall[name].append(images / (time.perf_counter() - started))
    return {
        name: Rate(statistics.median(taken), min(taken), max(taken), statistics.median(wall[name]))
        for name, taken in core.items()
    }


def decoding(dataset: StreamedDataset, count: int, rounds: int) -> dict[str, Rate]:
    """Decodes the same crops of the same files with every contender."""
    examples, size = dataset.examples["train"], dataset.image_shape[0]
    count = min(count, dataset.sizes["train"])
    files = [examples.read(position)[0] for position in range(count)]
    rng = np.random.default_rng(0)
    boxes = [random_resized_box(rng, *image_size(data)) for data in files]
    return measure_rates(prepare(files, boxes, size), count, rounds)


class PillowDecoder(SquareDecoder):
    """The training images made by Pillow."""

    def train(self, data: bytes, rng: np.random.Generator) -> np.ndarray:
        """Returns a random-resized crop, mirrored with probability 1/2."""
        box = random_resized_box(rng, *image_size(data))
        image = pillow_image(data, box, self.size)
        return image[:, ::-1] if rng.random() < 0.5 else image


def loading(dataset: StreamedDataset, batch_size: int, steps: int, rounds: int) -> dict[str, Rate]:
    """Draws whole batches through the worker threads with either decoder."""
    batch_size = min(batch_size, dataset.sizes["train"])
    with_pillow = dataclasses.replace(dataset, decoder=PillowDecoder(dataset.image_shape[0]))

    def draw(source: StreamedDataset) -> None:
        # Nothing is loaded ahead, which would be work without a batch at the end.
        batches = source.train_batches(0, batch_size, ahead=0)
        for _ in range(steps):
            next(batches)
        batches.close()  # type: ignore[attr-defined]

    contenders = {OURS: lambda: draw(dataset), BASE: lambda: draw(with_pillow)}
    return measure_rates(contenders, batch_size * steps, rounds)


def augmentation_functions(toy: bool) -> dict[str, Callable[[], Any]]:
    """What is timed of in-memory sets; every function runs one compiled call."""
    count, batch_size, model = (256, 16, "digits_cnn") if toy else (50_000, 128, "resnet32")
    rng = np.random.default_rng(0)
    split = jax.device_put(
        Split(
            rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8),
            rng.integers(0, 10, count).astype(np.int32),
        )
    )
    key = jax.random.key(0)
    permute = jax.jit(lambda key: epoch_permutation(key, 0, count))
    order = permute(key)

    def batch_with(settings: Augmentation) -> Callable[[], Any]:
        batch = jax.jit(
            lambda split, order: train_batch(
                key, split, order, 0, 1, batch_size=batch_size, augmentation=settings
            )
        )
        return lambda: batch(split, order)

    return {
        "order of an epoch": lambda: permute(key),
        "batch without augmentation": batch_with(Augmentation()),
        "batch with augmentation": batch_with(KNOWN_SETS["cifar10"].augmentation),
        TRAIN_STEP: _train_step(model, batch_size),
    }


def _train_step(name: str, batch_size: int) -> Callable[[], Any]:
    model = create_model(name, 10)
    images = jnp.zeros((batch_size, 32, 32, 3))
    labels = jnp.zeros((batch_size,), jnp.int32)
    variables = model.init(jax.random.key(0), images[:1], train=False)

    def loss_fn(params: Any, batch_stats: Any, batch: Any, key: Any) -> Any:
        del key
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch[0],
            train=True,
            mutable=["batch_stats"],
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()
        return loss, (updated["batch_stats"], {})

    tx, topology = optax.sgd(0.1, momentum=0.9), supjax.make_topology("dense")
    state = create_train_state(
        jax.random.key(0), variables["params"], tx, topology, batch_stats=variables["batch_stats"]
    )
    step = jax.jit(make_train_step(loss_fn, tx, topology))
    return lambda: step(state, (images, labels))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the tables and writes the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_pipeline")
    parser.add_argument("--data_dir", help="where imagenet2012 is prepared; TFDS's own by default")
    parser.add_argument("--toy", action="store_true", help="small images, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/input_pipeline.json"))
    flags = parser.parse_args(arguments)
    count, steps, rounds = (4, 2, 2) if flags.toy else (200, 4, 7)
    with tempfile.TemporaryDirectory() as folder:
        dataset = _toy_set(Path(folder)) if flags.toy else _image_set(flags.data_dir)
        decoded = decoding(dataset, count, rounds)
        loaded = loading(dataset, 4 if flags.toy else 128, steps, rounds)
    print("Decoding: images a second and core, median (least to most), and times Pillow")
    print_table(["", "one core", "times Pillow"], _rows(decoded))
    print(f"Loading with {default_threads()} threads: images a second")
    print_table(
        ["", "one core", "times Pillow", "all together"],
        [[*row, f"{loaded[row[0]].wall:.0f}"] for row in _rows(loaded)],
    )
    repetitions, budget = (3, 1.0) if flags.toy else (50, 10.0)
    times = time_interleaved(augmentation_functions(flags.toy), repetitions, budget)
    step = times[TRAIN_STEP].median
    print("In-memory set: milliseconds, median (least to most), and share of a step of ResNet-32")
    print_table(
        ["", "milliseconds", "share"],
        [
            [name, milliseconds_cell(t), f"{100 * t.median / step:.2g} %"]
            for name, t in times.items()
        ],
    )
    write_json(
        flags.output,
        {
            "packages": _versions(
                "pillow", "opencv-python-headless", "simplejpeg", "tensorflow-cpu"
            ),
            "threads": default_threads(),
            "decoding": {name: rate._asdict() for name, rate in decoded.items()},
            "loading": {name: rate._asdict() for name, rate in loaded.items()},
            "seconds": times,
        },
    )


def _versions(*packages: str) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    installed = {found.metadata["Name"].lower(): found for found in metadata.distributions()}
    return {name: installed[name].version for name in packages if name in installed}


def _rows(rates: dict[str, Rate]) -> list[list[str]]:
    base = rates[BASE].core
    return [
        [name, f"{rate.core:.0f} ({rate.least:.0f} to {rate.most:.0f})", f"{rate.core / base:.2f}"]
        for name, rate in rates.items()
    ]


def _image_set(data_dir: str | None) -> StreamedDataset:
    dataset = load_dataset("imagenet2012", data_dir, validation_size=0)
    assert isinstance(dataset, StreamedDataset)
    return dataset


def _toy_set(folder: Path) -> StreamedDataset:
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split / "class").mkdir(parents=True)
        for index in range(8):
            image = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
            image.resize((80, 60)).save(folder / split / "class" / f"{index}.jpg")
    write_tfds("toy_images", read_source(folder), folder)
    dataset = load_dataset("toy_images", folder, validation_size=0, image_size=32)
    assert isinstance(dataset, StreamedDataset)
    return dataset


if __name__ == "__main__":
    main()
