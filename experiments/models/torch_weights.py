"""PyTorch state dicts of the reference's networks to linen variables, and back.

The modules of `experiments.models` carry the reference's names with `_` for `.`: the linen path
`params/blocks_5/shortcut_0/kernel` is PyTorch's `blocks.5.shortcut.0.weight`. So conversion is
renaming, and moving axes: kernels from (out, in, height, width) to (height, width, in, out), and
from (out, in) to (in, out). torchvision's checkpoints fit the ImageNet ResNets as well.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTER = "num_batches_tracked"


def from_torch(state_dict: Mapping[str, Any], variables: Any) -> dict[str, Any]:
    """Return linen variables with the weights of a PyTorch state dict.

    Args:
      state_dict: arrays, or tensors on the CPU, by PyTorch's names. A prefix `module.` on all
        names (data-parallel wrappers) is dropped, and so are the counters of batch norm.
      variables: `params` and `batch_stats` of the network, for their structure, shapes and dtypes:
        arrays, or what `jax.eval_shape` returns.

    Returns:
      A tree like `variables`.

    Raises:
      ValueError: for names that are missing or left over, or for arrays of another shape.
    """
    if all(name.startswith("module.") for name in state_dict):
        state_dict = {name.removeprefix("module."): state_dict[name] for name in state_dict}
    leaves, treedef = jax.tree.flatten_with_path(variables)
    names = [_torch_name(path) for path, _ in leaves]
    missing = [name for name in names if name not in state_dict]
    unknown = [name for name in sorted(set(state_dict) - set(names)) if _COUNTER not in name]
    if missing or unknown:
        raise ValueError(
            f"the state dict is not of this network: missing {missing}, unknown {unknown}"
        )
    arrays = []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        array = _axes_from_torch(np.asarray(state_dict[name]))
        if array.shape != leaf.shape:
            raise ValueError(f"{name} has shape {array.shape} in linen, expected {leaf.shape}")
        arrays.append(jnp.asarray(array, leaf.dtype))
    return jax.tree.unflatten(treedef, arrays)


def to_torch(variables: Any) -> dict[str, np.ndarray]:
    """Return the PyTorch state dict of linen variables, the inverse of `from_torch`.

    Args:
      variables: `params` and `batch_stats` of a network of `experiments.models`.

    Returns:
      NumPy arrays by PyTorch's names; batch norm's counters are 0.

    >>> kernel = jnp.zeros((3, 3, 1, 8))
    >>> {k: v.shape for k, v in to_torch({"params": {"features_0": {"kernel": kernel}}}).items()}
    {'features.0.weight': (8, 1, 3, 3)}
    """
    state_dict = {}
    for path, leaf in jax.tree.leaves_with_path(jax.device_get(variables)):
        name = _torch_name(path)
        state_dict[name] = _axes_to_torch(np.asarray(leaf))
        if name.endswith("running_var"):
            counter = name.removesuffix("running_var") + _COUNTER
            state_dict[counter] = np.zeros((), np.int64)
    return state_dict


def _torch_name(path: tuple[Any, ...]) -> str:
    """Return the PyTorch name of a leaf at the linen path `(collection, *modules, leaf)`."""
    _, *modules, leaf = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    return ".".join(modules).replace("_", ".") + "." + _LEAF_NAMES[leaf]


def _axes_from_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _axes_to_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
