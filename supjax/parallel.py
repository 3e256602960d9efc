"""Several devices: the one place that uses pmap, and shard_map as its second way."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from supjax.checks import check_choice, check_count
from supjax.placement import sharding_of
from supjax.trees import is_none
from supjax.types import PyTree

StepFn = Callable[..., Any]

BACKENDS = ("pmap", "shard_map")
"""Ways to run a step on several devices."""


def data_parallel(
    step: StepFn,
    axis_name: str = "batch",
    *,
    in_axes: Any = (None, 0),
    devices: Sequence[jax.Device] | None = None,
    donate_argnums: int | Sequence[int] = (),
    backend: str = "pmap",
) -> StepFn:
    """Run a step on several devices that hold the same state and each a share of the batch.

    `g = 1/D sum_d grad(loss_d)(p)`, the sum that the step itself forms over `axis_name`: device d
    sees the state and the d-th share, and all devices take the same step of the same weights and
    masks. Both backends run the same program on every device and give the same bits.

    - `"pmap"` is `jax.pmap`. It is the choice for several processes, each with its own share.
    - `"shard_map"` is `jax.jit` of `jax.shard_map` on a mesh of one axis. Its results are ordinary
      arrays on that mesh, which other `jit` programs, `jax.device_put` to other shardings and
      checkpoints of sharded arrays take as they are; it can be traced into a larger program. For
      one process.

    Weights that do not fit on one device need neither: shard them by `NamedSharding`, and write the
    plain step of one device, without `axis_name`, under `jax.jit`.

    Args:
      step: a step made with the same `axis_name`. What it returns must be the same on all devices.
      axis_name: name of the device axis.
      in_axes: per argument, or part of one, None (the same on every device) or 0 (split along a
        leading axis of the number of devices; see `split_batch`). All may be None: a step can pick
        its share by `jax.lax.axis_index`.
      devices: devices to use; default all local ones.
      donate_argnums: arguments whose buffers may be reused.
      backend: "pmap" or "shard_map".

    Returns:
      The mapped step. Its results live on all devices: `jax.device_get` them before mixing them
      with arrays of one device. A result that differs between devices, such as that of a step
      made without the axis name, silently is the first device's.

    Raises:
      ValueError: if there is no such backend, in_axes hold another axis than 0, or "shard_map" is
        asked for in several processes.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> n = jax.local_device_count()
    >>> for backend in ("pmap", "shard_map"):
    ...     mean = data_parallel(
    ...         lambda s, x: s + jax.lax.pmean(jnp.mean(x), "batch"), backend=backend
    ...     )
    ...     print(float(jax.device_get(mean(jnp.ones(()), jnp.ones((n, 3))))))
    2.0
    2.0
    """
    check_choice(backend, "backend", BACKENDS)
    for axis in jax.tree.leaves(in_axes):
        if axis != 0:
            raise ValueError(f"in_axes may hold None and 0, got {axis!r}")
    donated = (donate_argnums,) if isinstance(donate_argnums, int) else tuple(donate_argnums)
    if backend == "shard_map":
        return _by_shard_map(step, axis_name, in_axes, devices, donated)
    mapped = partial(jax.pmap, axis_name=axis_name, out_axes=None, devices=devices)
    if jax.tree.leaves(in_axes):
        return mapped(step, in_axes=in_axes, donate_argnums=donated)
    # pmap learns the number of devices from a split argument, so there has to be one.
    shifted = tuple(i + 1 for i in donated)
    spread = mapped(lambda place, *args: step(*args), in_axes=(0, *in_axes), donate_argnums=shifted)
    return partial(spread, np.arange(len(devices) if devices else jax.local_device_count()))


def _by_shard_map(
    step: StepFn,
    axis_name: str,
    in_axes: Any,
    devices: Sequence[jax.Device] | None,
    donated: tuple[int, ...],
) -> StepFn:
    """Return the step of `data_parallel` by `jax.shard_map`.

    With its checks, the transpose of what all devices share is a sum over them: a step that takes
    the mean of gradients, as for `jax.pmap`, would then train with D times that mean. So
    `check_vma` is off.
    """
    if jax.process_count() > 1:
        raise ValueError(f"backend must be 'pmap' in {jax.process_count()} processes")
    mesh = Mesh(np.asarray(devices or jax.local_devices()), (axis_name,))
    specs = jax.tree.map(
        lambda axis: PartitionSpec() if axis is None else PartitionSpec(axis_name),
        in_axes,
        is_leaf=is_none,
    )

    def own(axis: int | None, tree: PyTree) -> PyTree:
        return tree if axis is None else jax.tree.map(lambda leaf: leaf[0], tree)

    def on_one(*args: Any) -> Any:
        return step(*jax.tree.map(own, in_axes, args, is_leaf=is_none))

    sharded = jax.shard_map(
        on_one, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
    )
    compiled = jax.jit(sharded, donate_argnums=donated)
    homes = jax.tree.map(partial(NamedSharding, mesh), specs)

    def elsewhere(leaf: Any) -> bool:
        home = None if isinstance(leaf, jax.core.Tracer) else sharding_of(leaf)
        return home is not None and home.device_set != set(mesh.devices.flat)

    def run(*args: Any) -> Any:
        """Move what is committed to other devices, as pmap does."""
        moved = any(map(elsewhere, jax.tree.leaves(args)))
        return compiled(*(jax.device_put(args, homes) if moved else args))

    return run


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
