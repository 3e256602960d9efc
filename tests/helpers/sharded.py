"""Layouts of weights over all devices of the process, as users shard them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

ROWS, COLUMNS = PartitionSpec("data", None), PartitionSpec(None, "model")
MODEL = PartitionSpec("model")


class Layout(NamedTuple):
    """A mesh, and how its weights are sharded, by path; what is not named is on all devices."""

    mesh: Mesh
    specs: dict[str, PartitionSpec]

    def place(self, tree):
        """Return a tree of weights sharded by their names."""

        def put(path, leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            spec = self.specs.get(name, PartitionSpec())
            return jax.device_put(leaf, NamedSharding(self.mesh, spec))

        return jax.tree_util.tree_map_with_path(put, tree)

    def home(self, leaf):
        """Return where an array lies: all devices of the mesh for one that lies on any."""
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        return leaf.sharding if isinstance(leaf.sharding, NamedSharding) else everywhere

    def batch(self, x):
        """Return examples, split over the axis of the data."""
        return jax.device_put(x, NamedSharding(self.mesh, PartitionSpec("data")))


def mesh(shape: tuple[int, ...], kind: AxisType) -> Mesh:
    """Return all devices as a mesh with the axes `data` and, of two, `model`."""
    names = ("data", "model")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))


def _fully_sharded(kind: AxisType) -> Layout:
    return Layout(mesh((jax.device_count(),), kind), {"up/kernel": ROWS, "down/kernel": ROWS})


def _tensor_parallel(kind: AxisType) -> Layout:
    down = PartitionSpec("model", "data")
    grid = mesh((jax.device_count() // 2, 2), kind)
    return Layout(grid, {"up/kernel": COLUMNS, "up/bias": MODEL, "down/kernel": down})


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "fully sharded": lambda: _fully_sharded(AxisType.Auto),
    "fully sharded, in types": lambda: _fully_sharded(AxisType.Explicit),
    "tensor parallel": lambda: _tensor_parallel(AxisType.Auto),
}
"""Name -> layout. The rows of `up/kernel` do not split into whole bytes of masks, others do."""


def weights():
    """Return two kernels and two biases of a small perceptron, on one device."""
    rng = np.random.default_rng(0)
    return {
        "up": {"kernel": rng.normal(0, 0.3, (16, 64)), "bias": np.zeros(64)},
        "down": {"kernel": rng.normal(0, 0.2, (64, 16)), "bias": np.zeros(16)},
    }


def floats(tree):
    """Return a tree of float32 arrays on the default device."""
    return jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, np.float32), tree)
