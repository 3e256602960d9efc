"""The real command as a child process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers.tiny_runs import tiny_flags

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "jax-tests"

ENVIRONMENT = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}


def command(workdir: Path, fields: dict[str, Any] | None = None, *more: str) -> list[str]:
    """The command line of a tiny run."""
    flags = tiny_flags({"runtime.compilation_cache": CACHE, **(fields or {})})
    return [sys.executable, "-m", "experiments.main", f"--workdir={workdir}", *flags, *more]


def start(arguments: list[str], **options: Any) -> subprocess.Popen:
    """Start a command in the root of the repository."""
    return subprocess.Popen(arguments, cwd=ROOT, env=ENVIRONMENT, text=True, **options)
