"""What is known about the image sets of the paper and their relatives before they are read."""

import os
from dataclasses import dataclass
from pathlib import Path

from experiments.data.types import Augmentation


@dataclass(frozen=True)
class ImageSet:
    """A known set.

    Attributes:
      num_classes: labels are `0 ... num_classes - 1`.
      mean: per channel, of pixels scaled to 0..1; METHOD's values for CIFAR and ImageNet's usual.
      std: per channel, likewise.
      augmentation: what training images go through unless the configuration says otherwise.
      download: size and place of the original files, for messages.
      streamed: whether images are read from disk as they are needed, not held in memory.
      test_split: the TFDS split to report on.
    """

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    download: str
    streamed: bool = False
    test_split: str = "test"


KNOWN_SETS: dict[str, ImageSet] = {
    "cifar10": ImageSet(
        num_classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        augmentation=Augmentation(pad=4, flip=True),
        download="162 MiB from www.cs.toronto.edu",
    ),
    "cifar100": ImageSet(
        num_classes=100,
        mean=(0.50708, 0.48655, 0.44092),
        std=(0.26733, 0.25644, 0.27615),
        augmentation=Augmentation(pad=4, flip=True),
        download="161 MiB from www.cs.toronto.edu",
    ),
    "digits": ImageSet(
        num_classes=10,
        mean=(0.3052,),
        std=(0.3760,),
        augmentation=Augmentation(pad=1),
        download="nothing: it comes with scikit-learn",
    ),
    "fashion_mnist": ImageSet(
        num_classes=10,
        mean=(0.2860,),
        std=(0.3530,),
        augmentation=Augmentation(pad=2, flip=True),
        download="30 MiB from fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ),
    "imagenet2012": ImageSet(
        num_classes=1000,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        augmentation=Augmentation(flip=True),
        download="144 GiB from image-net.org",
        streamed=True,
        test_split="validation",  # The labels of the test split are secret.
    ),
    "kmnist": ImageSet(
        num_classes=10,
        mean=(0.1918,),
        std=(0.3483,),
        augmentation=Augmentation(pad=2),
        download="20 MiB from codh.rois.ac.jp",
    ),
    "mnist": ImageSet(
        num_classes=10,
        mean=(0.1307,),
        std=(0.3081,),
        augmentation=Augmentation(pad=2),
        download="11 MiB from storage.googleapis.com",
    ),
    "svhn_cropped": ImageSet(
        num_classes=10,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        augmentation=Augmentation(),
        download="1.5 GiB from ufldl.stanford.edu",
    ),
}


def default_data_dir() -> Path:
    """Return TFDS's own default: `$TFDS_DATA_DIR`, or `tensorflow_datasets` in the home folder."""
    return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")


def missing_message(name: str, data_dir: Path) -> str:
    """Return the one line that says how to get a set that is not prepared.

    Args:
      name: the set.
      data_dir: where it was looked for.

    >>> missing_message("cifar10", Path("data"))[:60]
    'cifar10 is not prepared in data; run `python -m experiments.'
    """
    size = KNOWN_SETS[name].download if name in KNOWN_SETS else "what TFDS's builder asks for"
    return (
        f"{name} is not prepared in {data_dir}; run `python -m experiments.prepare_data"
        f" --dataset={name} --data_dir={data_dir}` (downloads {size}; --from=PATH imports a local"
        " copy instead)"
    )
