"""The same bits from the same run: CPUs give them anyway, GPUs when asked."""

import os

FLAG = "xla_gpu_deterministic_ops"


def use_deterministic_ops() -> None:
    """Make XLA choose deterministic GPU kernels, unless `XLA_FLAGS` already says what to do.

    Call it before JAX looks for devices.

    >>> use_deterministic_ops()
    >>> FLAG in os.environ["XLA_FLAGS"]
    True
    """
    given = os.environ.get("XLA_FLAGS", "")
    if FLAG not in given:
        os.environ["XLA_FLAGS"] = f"{given} --{FLAG}=true".strip()
