"""Several devices: the one place that uses pmap."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from supjax.checks import check_count
from supjax.types import PyTree

StepFn = Callable[..., Any]


def data_parallel(
    step: StepFn,
    axis_name: str = "batch",
    *,
    in_axes: Any = (None, 0),
    devices: Sequence[jax.Device] | None = None,
    donate_argnums: int | Sequence[int] = (),
) -> StepFn:
    """Run a step on several devices: `jax.pmap` with a state that has no device axis.

    Args:
      step: a step made with the same `axis_name`.
      axis_name: name of the device axis.
      in_axes: per argument None (the same on every device) or 0 (split along a leading axis of
        the number of devices; see `split_batch`). All may be None: a step can pick its share by
        `jax.lax.axis_index`.
      devices: devices to use; default all local ones.
      donate_argnums: arguments whose buffers may be reused.

    Returns:
      The mapped step. Its results live on all devices: `jax.device_get` them before mixing them
      with arrays of one device. A result that differs between devices, such as that of a step
      made without the axis name, silently is the first device's.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> mean = data_parallel(lambda s, x: s + jax.lax.pmean(jnp.mean(x), "batch"))
    >>> n = jax.local_device_count()
    >>> float(jax.device_get(mean(jnp.ones(()), jnp.ones((n, 3)))))
    2.0
    """
    donated = (donate_argnums,) if isinstance(donate_argnums, int) else tuple(donate_argnums)
    mapped = partial(jax.pmap, axis_name=axis_name, out_axes=None, devices=devices)
    if jax.tree.leaves(in_axes):
        return mapped(step, in_axes=in_axes, donate_argnums=donated)
    # pmap learns the number of devices from a split argument, so there has to be one.
    shifted = tuple(i + 1 for i in donated)
    spread = mapped(lambda place, *args: step(*args), in_axes=(0, *in_axes), donate_argnums=shifted)
    return partial(spread, np.arange(len(devices) if devices else jax.local_device_count()))


def split_batch(batch: PyTree, devices: int) -> PyTree:
    """Return a batch with a leading device axis: `[B, ...]` becomes `[devices, B/devices, ...]`.

    Args:
      batch: a tree of arrays with a leading axis of B examples.
      devices: number of devices, as of `data_parallel`.

    Returns:
      The tree with split leaves, in the order of the examples.

    Raises:
      ValueError: if the batch size is not divisible by the number of devices, a leaf has no axis
        of examples, or `devices` is no positive integer.

    >>> import jax.numpy as jnp
    >>> split_batch(jnp.zeros((8, 3)), 4).shape
    (4, 2, 3)
    """
    check_count(devices, "devices")

    def split(leaf: Any) -> Any:
        if leaf.ndim == 0:
            raise ValueError("a batch needs leaves with an axis of examples, got a scalar")
        if leaf.shape[0] % devices:
            raise ValueError(f"batch of {leaf.shape[0]} does not divide by {devices} devices")
        return leaf.reshape(devices, leaf.shape[0] // devices, *leaf.shape[1:])

    return jax.tree.map(split, batch)
