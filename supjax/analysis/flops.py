"""Floating-point operations of sparse networks, for inference and for training."""

from collections.abc import Callable
from typing import Any

import numpy as np

from supjax.analysis.tracing import layer_flops
from supjax.checks import check_choice, check_count
from supjax.trees import named_leaves
from supjax.types import Params, PyTree, TopologyTransform

MOMENTS = 200
"""Moments of a run at which a density ramp is read for its mean."""


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
    topology: TopologyTransform, dense: float, sparse: float, *, total_steps: int
) -> float:
    """Return the operations per sample of training, on average over the steps of a run.

    With the forward passes f_D (dense) and f_S (sparse), and a backward pass counted as two, it
    follows from the method's facts (`TopologyTransform`): 3 f_S where it never needs a dense
    gradient; 2 f_S + f_D where it always does; (3 f_S T + 2 f_S + f_D) / (T + 1) where it does at
    its updates, every T steps; and `mean_t 3 f_D d_t`, whatever its gradients, where its density
    d_t changes (GMP, GraNet).

    Args:
      topology: the method, from `supjax.make_topology`.
      dense: f_D, for example from `forward_flops`.
      sparse: f_S, at the density of the result.
      total_steps: training steps of the run.

    Returns:
      Operations per sample and training step.

    Raises:
      ValueError: if total_steps is below 1, or `dense_gradient` none of the three words.

    Source: Evci et al., *Rigging the Lottery*, ICML 2020, appendix H; Yin et al., UAI 2022.

    >>> import supjax
    >>> train_flops(supjax.make_topology("set", density=0.1), 100.0, 10.0, total_steps=50)
    30.0
    >>> rigl = supjax.make_topology("rigl", density=0.1, update_every=3)
    >>> train_flops(rigl, 100.0, 10.0, total_steps=50)
    52.5
    """
    check_count(total_steps, "total_steps")
    moments = [i * total_steps // MOMENTS for i in range(MOMENTS)]
    densities = np.asarray([topology.density_at(step) for step in moments], np.float64)
    if densities.min() < densities.max():
        return float(3.0 * dense * densities.mean())
    check_choice(topology.dense_gradient, "dense_gradient", ("never", "updates", "always"))
    if topology.dense_gradient == "never":
        return 3.0 * sparse
    if topology.dense_gradient == "always":
        return 2.0 * sparse + dense
    updates = (step for step in range(total_steps) if topology.due(step))
    first, second = next(updates, None), next(updates, None)
    if first is None:
        return 3.0 * sparse
    every = total_steps if second is None else second - first
    return (3.0 * sparse * every + 2.0 * sparse + dense) / (every + 1)


def _by_path(tree: PyTree) -> dict[str, Any]:
    return {} if tree is None else named_leaves(tree)


def _share(leaf: Any) -> float:
    array = np.asarray(leaf)
    return np.count_nonzero(array) / max(array.size, 1) if array.dtype == bool else float(array)
