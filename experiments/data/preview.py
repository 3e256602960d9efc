"""Pictures of what augmentation makes of a set's images.

    python -m experiments.data.preview --dataset=cifar10 --out=docs/images

writes `augmentation_cifar10.png`: a row an example, first as it is evaluated, then as it is trained
on in one epoch after the other, through the very functions of the training loop.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from experiments.data.arrays import ArrayDataset, train_batch
from experiments.data.loading import load_dataset
from experiments.data.streaming import StreamedDataset
from experiments.saying import say
from supjax.checks import some

ROWS, EPOCHS = 6, 8
_INCHES, _DPI = 0.9, 110


def augmented(dataset: ArrayDataset | StreamedDataset, seed: int = 0) -> np.ndarray:
    """Return examples as they are evaluated and as they are trained on.

    Args:
      dataset: the set; its first training examples are shown.
      seed: of the augmentation.

    Returns:
      uint8 `[rows, 1 + epochs, H, W, C]`; column 0 is the image as evaluated.
    """
    if isinstance(dataset, StreamedDataset):
        return np.stack([_streamed_row(dataset, position, seed) for position in range(ROWS)])
    rows = min(ROWS, dataset.sizes["train"])
    shown = jax.device_put(dataset.train.take(np.arange(rows)))

    @jax.jit
    def train_images(epoch: jax.Array) -> jax.Array:
        return train_batch(
            jax.random.key(seed),
            shown,
            jax.numpy.arange(rows),
            epoch,
            0,
            batch_size=rows,
            augmentation=dataset.augmentation,
        ).images

    columns = [
        np.asarray(shown.images),
        *(np.asarray(train_images(epoch)) for epoch in range(EPOCHS)),
    ]
    return np.stack(columns, axis=1)


def draw(dataset: ArrayDataset | StreamedDataset, path: Path, seed: int = 0) -> Path:
    """Write the picture.

    Args:
      dataset: the set.
      path: of the PNG file; its folder is made if it is missing.
      seed: of the augmentation.

    Returns:
      The path.
    """
    from matplotlib.figure import Figure

    images = augmented(dataset, seed)
    rows, columns = images.shape[:2]
    figure = Figure(figsize=(columns * _INCHES, rows * _INCHES + 0.3), layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for row, column in np.ndindex(rows, columns):
        axes, image = grid[row, column], images[row, column]
        axes.imshow(
            image[..., 0] if image.shape[-1] == 1 else image,
            cmap="gray",
            vmin=0,
            vmax=255,
            interpolation="nearest",
        )
        axes.set(xticks=[], yticks=[])
        if row == 0:
            axes.set_title("evaluated" if column == 0 else f"epoch {column - 1}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    return path


def _streamed_row(dataset: StreamedDataset, position: int, seed: int) -> np.ndarray:
    data, _ = dataset.examples["train"].read(position)
    rng = np.random.default_rng((seed, position))
    trained = [dataset.decoder.train(data, rng) for _ in range(EPOCHS)]
    return np.stack([dataset.decoder.evaluate(data), *trained])


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {some(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    name = flags.FLAGS.dataset
    try:
        dataset = load_dataset(name, flags.FLAGS.data_dir)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(str(error)) from error
    say(str(draw(dataset, Path(flags.FLAGS.out) / f"augmentation_{name.replace('/', '_')}.png")))


def run() -> None:
    """Entry point of the command line; flags are global, so importing this defines none."""
    flags.DEFINE_string("dataset", "digits", "The set's name.")
    flags.DEFINE_string("data_dir", None, "TFDS's data directory; TFDS's own by default.")
    flags.DEFINE_string("out", "docs/images", "Folder of the picture.")
    app.run(main)


if __name__ == "__main__":
    run()
