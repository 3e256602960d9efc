"""Peak memory of one call, measured in a process of its own (Linux)."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def added_bytes(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int:
    """Peak memory of a call beyond what its process held right before.

    Args:
      prepare: makes the function to call; runs in the new process and belongs to a module, as
        processes import what they run. Data, imports and compilation that happen here are not
        counted.
      *arguments: of `prepare`.

    Returns:
      Bytes; the call's result is among them.
    """
    return _in_new_process(_added_bytes_here, prepare, arguments)


def peak_device_bytes(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int | None:
    """Peak memory of the first device in a process that does nothing but prepare and call.

    Args:
      prepare: as of `added_bytes`; what it allocates counts as well.
      *arguments: of `prepare`.

    Returns:
      Bytes, or None for a device that does not count them, as a CPU.
    """
    return _in_new_process(_peak_device_bytes_here, prepare, arguments)


def _in_new_process(measure: Callable[..., Any], *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, *arguments).result()


def _peak_device_bytes_here(prepare: Callable[..., Callable[[], Any]], arguments: Any) -> Any:
    device = jax.local_devices()[0]
    if device.memory_stats() is None:
        return None
    jax.block_until_ready(prepare(*arguments)())
    return device.memory_stats()["peak_bytes_in_use"]


def _added_bytes_here(prepare: Callable[..., Callable[[], Any]], arguments: Any) -> int:
    function = prepare(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _resident("VmRSS")
    jax.block_until_ready(function())
    return max(_resident("VmHWM") - before, 0)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")
