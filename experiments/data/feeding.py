"""From host batches to devices, ahead of time."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

import supjax
from experiments.data.types import Batch


def prefetch_to_device(
    batches: Iterable[Batch], *, devices: Sequence[jax.Device] | None = None, ahead: int = 2
) -> Iterator[Batch]:
    """Move batches to the devices before they are asked for; transfers overlap with computation.

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
        shaped = batch if devices is None else supjax.split_batch(batch, len(devices))
        queue.append(jax.device_put(shaped, placement))
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue
