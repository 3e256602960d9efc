"""Floating-point operations of sparse networks, for inference and for training."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from supjax.analysis.tracing import layer_flops
from supjax.checks import check_count
from supjax.masks import is_none, path_str
from supjax.types import Params, PyTree

_SPARSE = frozenset({"static", "set", "set_itop", "dsr", "mest", "snip", "grasp", "synflow"})
_DENSE_GRADIENT_AT_UPDATES = frozenset({"rigl", "rigl_itop"})
_RAMPS = frozenset({"gmp", "granet"})
COUNTED = tuple(sorted({"dense", "snfs"} | _SPARSE | _DENSE_GRADIENT_AT_UPDATES | _RAMPS))
"""Methods that `train_flops` knows."""


def forward_flops(
    apply_fn: Callable[..., Any], params: Params, *inputs: Any, densities: PyTree = None
) -> float:
    """Count the operations of one forward pass, `sum_l d_l f_l` over the layers l.

    Args:
      apply_fn: the model, called as `apply_fn(params, *inputs)`.
      params: weights, or `jax.ShapeDtypeStruct`s of them.
      *inputs: arguments, or `jax.ShapeDtypeStruct`s; a batch of 1 gives operations per sample.
      densities: masks, or the tree of densities that `supjax.erk` returns; `None` for the dense
        network.

    Returns:
      Multiplications plus additions; see `layer_flops` for what is counted.

    Raises:
      ValueError: densities of layers that the params lack, or a loop of unknown length.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((3, 5)), "b": jnp.ones(5)}
    >>> apply_fn = lambda p, x: x @ p["w"] + p["b"]
    >>> forward_flops(apply_fn, params, jnp.ones(3))
    30.0
    >>> forward_flops(apply_fn, params, jnp.ones(3), densities={"w": 0.2, "b": None})
    6.0
    """
    unknown = sorted(_by_path(densities).keys() - _by_path(params).keys())
    if unknown:
        raise ValueError(f"densities name a layer that the params lack: {unknown[0]!r}")
    return total_flops(layer_flops(apply_fn, params, *inputs), densities)


def total_flops(layers: dict[str, int], densities: PyTree = None) -> float:
    """Add up a table of layers at their densities, `sum_l d_l f_l`.

    Args:
      layers: dense operations by path, as `layer_flops` returns them.
      densities: masks, or a tree of densities; `None`, also for a single leaf, means dense.

    Returns:
      The sum; products without a weight count in full.

    >>> total_flops({"w1": 100, "w2": 10}, {"w1": np.array([True, False]), "w2": None})
    60.0
    """
    shares = {path: _share(leaf) for path, leaf in _by_path(densities).items() if leaf is not None}
    return float(sum(flops * shares.get(path, 1.0) for path, flops in layers.items()))


def train_flops(
    method: str,
    dense: float,
    sparse: float | None = None,
    *,
    update_every: int | None = None,
    densities: Sequence[float] | None = None,
) -> float:
    """Return the operations per sample of training, on average over the steps of a run.

    With the forward passes f_D (dense) and f_S (sparse), and a backward pass counted as two:
    dense 3 f_D; static masks, SET, DSR, MEST 3 f_S; SNFS 2 f_S + f_D (a dense gradient of the
    weights at every step); RigL (3 f_S T + 2 f_S + f_D) / (T + 1) with an update every T steps;
    density ramps `mean_t 3 f_D d_t`.

    Args:
      method: one of `COUNTED`, the names of `supjax.topologies.METHODS`.
      dense: f_D, for example from `forward_flops`.
      sparse: f_S; all methods need it but "dense" and the ramps.
      update_every: T, for RigL.
      densities: d_t at equally spaced moments of the run, for the ramps (GMP, GraNet).

    Returns:
      Operations per sample and training step.

    Raises:
      ValueError: an unknown method, or an argument that it needs is missing or out of range.

    Source: Evci et al., *Rigging the Lottery*, ICML 2020, appendix H; Yin et al., UAI 2022.

    >>> train_flops("dense", 100.0), train_flops("set", 100.0, 10.0)
    (300.0, 30.0)
    >>> train_flops("rigl", 100.0, 10.0, update_every=3)
    52.5
    >>> train_flops("granet", 100.0, densities=[0.5, 0.3, 0.1])
    90.0
    """
    if method not in COUNTED:
        raise ValueError(f"method must be one of {', '.join(COUNTED)}, got {method!r}")
    if method == "dense":
        return 3.0 * dense
    if method in _RAMPS:
        shares = np.asarray([] if densities is None else densities, np.float64)
        if not shares.size or not ((shares >= 0) & (shares <= 1)).all():
            raise ValueError(f"{method} needs densities in [0, 1] over time, got {densities}")
        return float(3.0 * dense * shares.mean())
    if sparse is None:
        raise ValueError(f"{method} needs the forward operations of the sparse network")
    if method == "snfs":
        return 2.0 * sparse + dense
    if method in _DENSE_GRADIENT_AT_UPDATES:
        every = check_count(update_every, "update_every")  # type: ignore[arg-type]
        return (3.0 * sparse * every + 2.0 * sparse + dense) / (every + 1)
    return 3.0 * sparse


def _by_path(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_none)[0]
    return {path_str(path): leaf for path, leaf in leaves} if tree is not None else {}


def _share(leaf: Any) -> float:
    array = np.asarray(leaf)
    return np.count_nonzero(array) / max(array.size, 1) if array.dtype == bool else float(array)
