"""Peers' packages, imported from folders that an environment variable names.

Nothing of them is copied. What they lack to run on current versions is supplied from outside:
JaxPruner asks for `jax.tree_map`, which JAX has renamed; the reference code imports torchvision,
which nothing that is measured needs, and calls `.cuda()` on every mask.
"""

import contextlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import jax

VARIABLE = "SUPJAX_PEERS"


def add_peer_paths() -> list[Path]:
    """Put the folders of the variable before all others that modules are looked up in.

    Returns:
      The folders; the reference code's modules lie in a folder `CIFAR` of its own.
    """
    given = [Path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    folders = [part for path in given for part in (path, path / "CIFAR") if part.is_dir()]
    known = set(sys.path)
    sys.path[:0] = [str(folder) for folder in folders if str(folder) not in known]
    return folders


def load_jaxpruner() -> ModuleType | None:
    """Return JaxPruner, or None with a line that says why not."""
    if not hasattr(jax, "tree_map"):
        jax.tree_map = jax.tree.map  # type: ignore[attr-defined]
    return _load("jaxpruner")


def load_reference() -> SimpleNamespace | None:
    """Return what is measured of the authors' PyTorch code, or None with a line that says why not.

    Its threads are as many as XLA may use.
    """
    torch = _load("torch")
    if torch is None:
        return None
    if (jax.default_backend() == "gpu") != torch.cuda.is_available():
        print("skipping the reference code: its PyTorch and this JAX run on different devices")
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda tensor: tensor
    if importlib.util.find_spec("torchvision") is None:
        names = ("torchvision", "torchvision.transforms")
        sys.modules.update({name: mock.MagicMock() for name in names})
    # The program makes folders where it is imported.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        program = _load("main_suptickets")
    return None if program is None else SimpleNamespace(torch=torch, program=program)


def _load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"skipping {name}: {error}")
        return None
