"""What every command does before JAX computes anything: same bits, and no second compilation."""

import os
from pathlib import Path

import jax

FLAG = "xla_gpu_deterministic_ops"


def start_jax(*, deterministic: bool = False, compilation_cache: str = "auto") -> None:
    """Prepare JAX for a command; call it before JAX looks for devices.

    Args:
      deterministic: make XLA choose deterministic GPU kernels; CPUs give the same bits anyway.
      compilation_cache: "auto" for `supjax/xla` in the user's cache folder, "off", or a folder.
    """
    if deterministic:
        use_deterministic_ops()
    enable_compilation_cache(compilation_cache)


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


def enable_compilation_cache(setting: str) -> Path | None:
    """Turn the cache on, unless the setting is "off".

    Args:
      setting: "auto" for `supjax/xla` in the user's cache folder, "off", or a folder.

    Returns:
      The folder in use, or None.

    >>> enable_compilation_cache("off") is None
    True
    """
    if setting == "off":
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "supjax" / "xla" if setting == "auto" else Path(setting)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder
