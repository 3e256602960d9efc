"""Settings of the whole suite: four CPU devices, strict ranks, one compilation cache.

Programs are compiled without XLA's expensive passes and with its older, faster emitters of kernels,
also in the processes that tests start: the suite spends most of its time in the compiler, which
needs less than half of it so. With `JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test` it runs the
programs that users run. The tests of sharding start a process of their own with eight devices, by
`SUPJAX_TEST_DEVICES`.
"""

import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
given = os.environ.get("XLA_FLAGS", "")
quick = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
if quick and FLAGS not in given and version("jaxlib").startswith("0.10."):  # others may not know it
    os.environ["XLA_FLAGS"] = f"{given} {FLAGS}".strip()

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


def pytest_configure(config: pytest.Config) -> None:
    """Let the workers of xdist take files in their order: doctests last, which are short.

    By itself it takes files of many tests first, and the long ones of few tests at the end, when
    other workers have nothing left to do.
    """
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Small vectors computed by the authors' PyTorch code; see tests/vectors/README.md."""
    return Path(__file__).parent / "vectors"
