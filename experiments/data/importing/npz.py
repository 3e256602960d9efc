"""A set as one `.npz` of arrays: `train_images`, `train_labels`, `test_images`, `test_labels`."""

from pathlib import Path

import numpy as np

from experiments.data.checks import DataError, check_num_classes, naming, some
from experiments.data.importing.source import Source, array_source
from experiments.data.npz_file import read_arrays

_ABOUT_ALL = ("num_classes", "label_names")
_OWN = ("fingerprint",)  # Of the arrays that loading a set leaves beside it.


def read_npz(path: Path, num_classes: int | None = None) -> Source:
    """Read a set from one `.npz` file.

    Args:
      path: holds `<split>_images`, uint8 `[N, H, W]` or `[N, H, W, C]`, and `<split>_labels`,
        integers `[N]` or `[N, 1]`, for `train` and `test` and any other split (`val` is
        `validation`); optionally `num_classes` and `label_names`, and further values
        `<split>_<feature>` for every example.
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
            raise DataError(f"lacks {sorted(missing)[:8]}; it has {some(sorted(content), 20)}")
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
        return array_source(
            {split: (content[f"{split}_images"], content[f"{split}_labels"]) for split in splits},
            num_classes=num_classes,
            label_names=_names(content.get("label_names")),
            extra=extra,
            files=(path,),
        )


def _names(values: np.ndarray | None) -> tuple[str, ...] | None:
    """Return class names, None where there are none."""
    if values is None or values.size == 0:
        return None
    if values.ndim != 1 or values.dtype.kind not in "US":
        raise DataError(f"label_names must be text [K], got {values.dtype} {values.shape}")
    return tuple(name.decode() if isinstance(name, bytes) else name for name in values.tolist())
