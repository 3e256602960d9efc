"""A set as one `.npz` of arrays: `train_images`, `train_labels`, `test_images`, `test_labels`."""

from pathlib import Path

import numpy as np

from experiments.data.checks import DataError, check_num_classes, naming
from experiments.data.importing.source import Source, array_source
from experiments.data.npz_file import read_arrays
from supjax.checks import listed, some

_ABOUT_ALL = ("num_classes", "label_names")
_OWN = ("fingerprint",)  # Of the arrays that loading a set leaves beside it.


def read_npz(path: Path, num_classes: int | None = None) -> Source:
    """Read a set from one `.npz` file.

    Args:
      path: holds `<split>_images`, uint8 `[N, H, W]` or `[N, H, W, C]`, and `<split>_labels`,
        integers or names of classes `[N]` or `[N, 1]`, for `train` and `test` and any other split
        (`val` is `validation`); optionally `num_classes` and `label_names`, and further values
        `<split>_<feature>` for every example. Names are numbered as in `label_names`, or else in
        the order of the alphabet.
      num_classes: used where the file says nothing; if None too, labels must be `0 ... K - 1`.

    Returns:
      The source, in the arrays' own order.

    Raises:
      DataError: if `train` or `test` is missing, or an array has the wrong type, shape or range.
    """
    with naming(path):
        content = read_arrays(path, lambda name: name not in _OWN)
        splits = [key.removesuffix("_images") for key in content if key.endswith("_images")]
        missing = {
            f"{split}_{part}"
            for split in {"train", "test", *splits}
            for part in ("images", "labels")
            if f"{split}_{part}" not in content
        }
        if missing:
            raise DataError(f"lacks {listed(sorted(missing))}; it has {some(sorted(content), 20)}")
        known = {f"{split}_{part}" for split in splits for part in ("images", "labels")}
        extra: dict[str, dict[str, np.ndarray]] = {split: {} for split in splits}
        for key in sorted(set(content) - known - set(_ABOUT_ALL)):
            split = next((name for name in splits if key.startswith(f"{name}_")), None)
            if split is None:
                raise DataError(
                    f"has an unknown array {key}; known are num_classes, label_names and"
                    " <split>_images, <split>_labels, <split>_<feature>"
                )
            extra[split][key.removeprefix(f"{split}_")] = content[key]
        if "num_classes" in content:
            num_classes = check_num_classes(content["num_classes"])
        labels, names = _numbered(
            {split: content[f"{split}_labels"] for split in splits},
            _names(content.get("label_names")),
        )
        return array_source(
            {split: (content[f"{split}_images"], labels[split]) for split in splits},
            num_classes=num_classes,
            label_names=names,
            extra=extra,
            files=(path,),
        )


def _names(values: np.ndarray | None) -> tuple[str, ...] | None:
    """Return class names, None where there are none."""
    if values is None or values.size == 0:
        return None
    if values.ndim != 1 or values.dtype.kind not in "US":
        raise DataError(f"label_names must be text [K], got {values.dtype} {values.shape}")
    return tuple(_text(values))


def _text(values: np.ndarray) -> list[str]:
    """Return text of either kind as strings.

    Raises:
      DataError: if bytes are no UTF-8.
    """
    try:
        return [v.decode() if isinstance(v, bytes) else v for v in values.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise DataError(f"names of classes must be UTF-8, got {error.object!r}") from None


def _numbered(
    labels: dict[str, np.ndarray], names: tuple[str, ...] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Return labels as numbers, and the names of the classes.

    Args:
      labels: numbers, which stay as they are, or the name of every example's class, by split.
      names: of the classes in their order; None for those of the training split.

    Raises:
      DataError: if a name is none of them.

    >>> labels, names = _numbered({"train": np.array(["dog", "cat"])}, None)
    >>> labels["train"], names
    (array([1, 0]), ('cat', 'dog'))
    """
    named = {split: _text(own) for split, own in labels.items() if own.dtype.kind in "US"}
    if not named:
        return labels, names
    if names is None and "train" in named:
        names = tuple(sorted(set(named["train"])))
    numbers = {name: number for number, name in enumerate(names or ())}
    for split, own in named.items():
        for example, name in enumerate(own):
            if name not in numbers:
                raise DataError(
                    f"{split} label {name[:40]!r} of example {example} is none of the"
                    f" {len(numbers)} classes {some(numbers, most=4)}"
                )
        found = np.array([numbers[name] for name in own], np.int64)
        labels = {**labels, split: found.reshape(labels[split].shape)}
    return labels, names
