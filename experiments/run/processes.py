"""What the processes of one run agree on before they go on; alone, a process agrees with itself."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def wait_for_all(what: str) -> None:
    """Return when every process has come here, for example with a file written by the first.

    >>> wait_for_all("result")
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def agree(stop: int, signal_number: int) -> tuple[int, int]:
    """Return the earliest stop and the largest signal number that any process proposes.

    Compiled steps of several processes talk to each other, so all run the same number of them;
    and a signal that only one process has received stops them all at the same step.

    >>> agree(7, 0)
    (7, 0)
    """
    if jax.process_count() == 1:
        return stop, signal_number
    proposals = multihost_utils.process_allgather(np.array([stop, -signal_number], np.int32))
    first, negated = proposals.min(axis=0).tolist()
    return first, -negated
