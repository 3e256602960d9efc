"""Settings of the whole suite: four CPU devices, strict ranks, one compilation cache.

Programs are compiled without XLA's expensive passes, also in the processes that tests start: the
suite spends most of its time in the compiler, and takes two thirds of the time so. With
`JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test` it runs the programs that users run. The tests of
sharding start a process of their own with eight devices, by `SUPJAX_TEST_DEVICES`.
"""

import os
from pathlib import Path

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(os.environ.get("SUPJAX_TEST_DEVICES", "4")))
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".cache" / "jax-tests")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

try:
    from hypothesis import settings
except ImportError:  # the suite of the bare library runs without the extras
    pass
else:
    settings.register_profile("supjax", deadline=None, max_examples=20, derandomize=True)
    settings.load_profile("supjax")


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Small vectors computed by the authors' PyTorch code; see tests/vectors/README.md."""
    return Path(__file__).parent / "vectors"
