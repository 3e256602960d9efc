"""PyTorch state dicts of the reference's networks to linen variables, and back.

The modules of `experiments.models` carry the reference's names with `_` for `.`: the linen path
`params/blocks_5/shortcut_0/kernel` is PyTorch's `blocks.5.shortcut.0.weight`. So conversion is
renaming, and moving axes: kernels from (out, in, height, width) to (height, width, in, out), and
from (out, in) to (in, out). torchvision's checkpoints fit the ImageNet ResNets as well. Nothing of
PyTorch is needed: arrays do as well as tensors.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supjax.checks import listed
from supjax.types import Ticket

_LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

_HOLDERS = ("state_dict", "model_state_dict", "model", "net", "module")
"""Entries of a checkpoint in which the state dict of its network lies."""

_PREFIXES = ("module.", "model.", "net.")
"""What data-parallel wrappers, `AveragedModel` and Lightning put before all names."""

_COMPILED = "_orig_mod."
"""What `torch.compile` puts before the names of whatever it compiled."""

_COUNTERS = ("num_batches_tracked", "n_averaged")


def from_torch(state_dict: Mapping[str, Any], variables: Any) -> dict[str, Any]:
    """Return linen variables with the weights of a PyTorch state dict.

    Names and wrappers are read as people have them: a checkpoint that holds the state dict under
    `state_dict`, `model` or the like, the prefixes `module.` and `model.` on all names, the
    `_orig_mod.` of compiled modules, the counters of batch norm and of `AveragedModel`, and the
    pairs `weight_orig`, `weight_mask` of `torch.nn.utils.prune`, which are multiplied (see
    `ticket_from_torch` for the masks).

    Args:
      state_dict: arrays, or tensors, by PyTorch's names.
      variables: `params` and `batch_stats` of the network, for their structure, shapes and dtypes:
        arrays, or what `jax.eval_shape` returns.

    Returns:
      A tree like `variables`.

    Raises:
      ValueError: one line, for names that are missing or left over, for arrays of another shape,
        or for what is no state dict.
    """
    return _converted(state_dict, variables)[0]


def ticket_from_torch(state_dict: Mapping[str, Any], variables: Any) -> Ticket:
    """Return a PyTorch state dict as a ticket, with the masks of `torch.nn.utils.prune`.

    Args:
      state_dict: see `from_torch`.
      variables: see `from_torch`.

    Returns:
      The ticket; weights that were not pruned have no mask.

    Raises:
      ValueError: as `from_torch`.

    >>> variables = {"params": {"fc": {"kernel": jnp.zeros((2, 1))}}}
    >>> pruned = {"fc.weight_orig": np.float32([[3, 4]]), "fc.weight_mask": np.float32([[0, 1]])}
    >>> ticket = ticket_from_torch({"model": pruned}, variables)
    >>> ticket.params["fc"]["kernel"].tolist(), ticket.masks["fc"]["kernel"].tolist()
    ([[0.0], [4.0]], [[False], [True]])
    """
    weights, masks = _converted(state_dict, variables)
    return Ticket(weights["params"], masks["params"], weights.get("batch_stats", {}))


def _converted(state_dict: Mapping[str, Any], variables: Any) -> tuple[Any, Any]:
    """Return linen variables, and a tree of the same nodes with masks, None for dense leaves."""
    leaves, treedef = jax.tree.flatten_with_path(variables)
    names = [_torch_name(path) for path, _ in leaves]
    found = _without_prefixes(_found(state_dict), names)
    found, masks = _without_masks(found)
    missing = [name for name in names if name not in found]
    unknown = sorted(
        name for name in found.keys() - set(names) if name.rpartition(".")[2] not in _COUNTERS
    )
    if missing or unknown:
        raise ValueError(
            "the state dict is not of this network: "
            f"missing {listed(missing)}, unknown {listed(unknown)}"
        )
    arrays, flags = [], []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        array = _axes_from_torch(_array(name, found[name]))
        if array.shape != leaf.shape:
            raise ValueError(f"{name} has shape {array.shape} in linen, expected {leaf.shape}")
        arrays.append(jnp.asarray(array, leaf.dtype))
        flags.append(None if name not in masks else _axes_from_torch(masks[name]))
    return jax.tree.unflatten(treedef, arrays), jax.tree.unflatten(treedef, flags)


def _found(checkpoint: Any) -> dict[str, Any]:
    """Return the state dict inside a checkpoint of any making, by names of one text each."""
    if callable(getattr(checkpoint, "state_dict", None)):
        checkpoint = checkpoint.state_dict()
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"a state dict must hold arrays by name, got {type(checkpoint).__name__}")
    for holder in _HOLDERS:
        inner = checkpoint.get(holder)
        if isinstance(inner, Mapping) or callable(getattr(inner, "state_dict", None)):
            return _found(inner)
    if odd := [name for name in checkpoint if not (isinstance(name, str) and name.isprintable())]:
        raise ValueError(f"names of a state dict must be texts of one line, got {listed(odd)}")
    return {name.replace(_COMPILED, ""): value for name, value in checkpoint.items()}


def _without_prefixes(state_dict: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return a state dict without what wrappers put before all names, but for the counters."""
    inner = [name for name in state_dict if name not in _COUNTERS]
    for prefix in _PREFIXES:
        wrapped = all(name.startswith(prefix) for name in inner)
        if inner and wrapped and not all(name.startswith(prefix) for name in names):
            shorter = {name.removeprefix(prefix): state_dict[name] for name in inner}
            return _without_prefixes(shorter, names)
    return {name: state_dict[name] for name in inner}


def _without_masks(
    state_dict: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return pruned weights under their own names, and their masks."""
    weights, masks = dict(state_dict), {}
    for name in state_dict:
        stem = name.removesuffix("_mask")
        if stem == name or f"{stem}_orig" not in state_dict:
            continue
        mask, weight = _array(name, weights.pop(name)), _array(name, weights.pop(f"{stem}_orig"))
        if mask.shape != weight.shape or not np.isin(mask, (0, 1)).all():
            raise ValueError(f"{name} must be 0 and 1 in the shape {weight.shape} of its weight")
        masks[stem] = mask.astype(bool)
        weights[stem] = np.where(masks[stem], weight, 0).astype(weight.dtype)
    return weights, masks


def _array(name: str, value: Any) -> np.ndarray:
    """Return an array or a tensor, wherever it lies and of whatever number type, as an array."""
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.float() if value.is_floating_point() else value
        array = np.asarray(value)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} cannot be read as an array: {reason}") from error
    if array.dtype.kind not in "fiub" and array.dtype != jnp.bfloat16:
        raise ValueError(f"{name} must hold numbers, got {array.dtype} of shape {array.shape}")
    return array


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
            counter = name.removesuffix("running_var") + _COUNTERS[0]
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
