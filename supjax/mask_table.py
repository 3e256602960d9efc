"""A printable table of a sparse network, one line a layer."""

import numpy as np

from supjax.masks import paired
from supjax.types import Masks, Params


def summary(params: Params, masks: Masks) -> str:
    """Return a printable table, one line a layer: shape, weights, active weights, density.

    Counts come from the masks, so a zero bias is no pruned weight. Masks are bookkeeping:
    the arrays stay dense in memory, and a mask adds one byte a weight.

    Args:
      params: weights (only shapes are read).
      masks: their masks.

    Returns:
      The table as one string of several lines.

    >>> import jax.numpy as jnp
    >>> kernel, mask = jnp.zeros((2, 2)), jnp.array([[True, False], [False, False]])
    >>> print(summary({"b": jnp.ones(2), "k": kernel}, {"b": None, "k": mask}))
    layer     shape  weights  active  density
    b             2        2       2    dense
    k           2x2        4       1   0.2500
    maskable               4       1   0.2500
    all                    6       3   0.5000
    """
    rows = [("layer", "shape", "weights", "active", "density")]
    sizes, active = [0, 0], [0, 0]
    for path, weight, mask in paired(params, masks):
        kept = weight.size if mask is None else int(np.sum(mask))
        share = "dense" if mask is None else f"{kept / max(weight.size, 1):.4f}"
        shape = "x".join(map(str, weight.shape)) or "scalar"
        rows.append((path, shape, f"{weight.size:,}", f"{kept:,}", share))
        for i in (0, 1) if mask is not None else (1,):
            sizes[i] += weight.size
            active[i] += kept
    for name, size, kept in zip(("maskable", "all"), sizes, active, strict=True):
        rows.append((name, "", f"{size:,}", f"{kept:,}", f"{kept / max(size, 1):.4f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )
