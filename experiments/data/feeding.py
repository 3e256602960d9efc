"""From host batches to devices: the device axis that pmap wants, and transfers ahead of time."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from experiments.data.types import Batch


def split_over_devices(batch: Batch, num_devices: int) -> Batch:
    """Gives a batch the leading device axis of pmap: `[B, ...]` becomes `[D, B / D, ...]`.

    Args:
      batch: of one process.
      num_devices: D, the devices of this process.

    Returns:
      The batch, views of the same arrays; device d has the d-th share.

    Raises:
      ValueError: if the batch cannot be divided evenly.

    >>> batch = Batch(np.zeros((4, 2, 2, 1)), np.arange(4), np.ones(4))
    >>> split_over_devices(batch, 2).labels.tolist()
    [[0, 1], [2, 3]]
    """
    size = len(batch.labels)
    if size % num_devices:
        raise ValueError(f"a batch of {size} cannot be divided over {num_devices} devices")
    return jax.tree.map(
        lambda leaf: leaf.reshape(num_devices, size // num_devices, *leaf.shape[1:]), batch
    )


def prefetch_to_device(
    batches: Iterable[Batch], *, devices: Sequence[jax.Device] | None = None, ahead: int = 2
) -> Iterator[Batch]:
    """Moves batches to the devices before they are asked for; transfers overlap with computation.

    Args:
      batches: host batches of this process.
      devices: the devices of this process, for pmap; None for one device without a device axis.
      ahead: batches on the devices beyond the one that is yielded.

    Yields:
      The batches in order, on the devices; with `devices` they have a leading device axis, whose
      d-th slice is on device d.
    """
    placement = None
    if devices is not None:
        mesh = jax.sharding.Mesh(np.asarray(devices), ("device",))
        placement = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("device"))
    queue: deque[Batch] = deque()
    for batch in batches:
        shaped = batch if devices is None else split_over_devices(batch, len(devices))
        queue.append(jax.device_put(shaped, placement))
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue
