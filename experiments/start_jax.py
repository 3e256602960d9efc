"""XLA's persistent compilation cache: a second start skips the compilation."""

import os
from pathlib import Path

import jax


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
