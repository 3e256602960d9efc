"""A set as one `.npz` of arrays: `train_images`, `train_labels`, `test_images`, `test_labels`."""

from pathlib import Path

import numpy as np

from experiments.data.importing.source import Source, array_source


def read_npz(path: Path) -> Source:
    """Read a set from one `.npz` file.

    Args:
      path: holds `<split>_images`, uint8 `[N, H, W]` or `[N, H, W, C]`, and `<split>_labels`,
        integers `[N]`, for `train` and `test` and any other split; optionally `num_classes` and
        `label_names`, and further values `<split>_<feature>` for every example.

    Returns:
      The source, in the arrays' own order.

    Raises:
      ValueError: if `train` or `test` is missing, or an array has the wrong type, shape or range.
    """
    with np.load(path, allow_pickle=False) as file:
        content = {key: file[key] for key in file.files}
    splits = [key.removesuffix("_images") for key in content if key.endswith("_images")]
    missing = {
        f"{split}_{part}"
        for split in {"train", "test", *splits}
        for part in ("images", "labels")
        if f"{split}_{part}" not in content
    }
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}; it has {sorted(content)}")
    names = [str(name) for name in content.get("label_names", ())]
    return array_source(
        {split: (content[f"{split}_images"], content[f"{split}_labels"]) for split in splits},
        num_classes=int(content["num_classes"]) if "num_classes" in content else None,
        label_names=names or None,
        extra={split: _extra(content, split) for split in splits},
    )


def _extra(content: dict[str, np.ndarray], split: str) -> dict[str, np.ndarray]:
    known = ("images", "labels")
    return {
        key.removeprefix(f"{split}_"): values
        for key, values in content.items()
        if key.startswith(f"{split}_") and key.removeprefix(f"{split}_") not in known
    }
