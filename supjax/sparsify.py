"""Sparse training inside somebody else's optax loop."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from supjax.masks import apply_masks
from supjax.types import Masks, Params, PyTree, TopologyState, TopologyTransform


class SparsifyState(NamedTuple):
    """State of `sparsify`: the wrapped optimizer's, the topology's, a step counter and a key."""

    inner: PyTree
    topology: TopologyState
    step: jax.Array  # shape (), int32
    key: jax.Array  # typed key


def mask_optimizer_state(
    tx: optax.GradientTransformation, opt_state: PyTree, masks: Masks
) -> PyTree:
    """Set every per-weight entry of an optimizer's state to zero outside the masks.

    Momentum, both Adam moments, accumulated gradients: whatever `optax.tree.map_params` finds
    that has a weight's shape. Factored statistics of other shapes are left alone.

    Args:
      tx: the optimizer that made the state.
      opt_state: its state.
      masks: masks of the params.

    Returns:
      The masked state.

    >>> import jax.numpy as jnp
    >>> tx, params = optax.sgd(0.1, momentum=0.9), {"w": jnp.ones((1, 2))}
    >>> state = tx.update(params, tx.init(params))[1]
    >>> state = mask_optimizer_state(tx, state, {"w": jnp.array([[True, False]])})
    >>> state[0].trace["w"]
    Array([[1., 0.]], dtype=float32)
    """

    def mask_leaf(entry: Any, mask: Any) -> Any:
        if mask is None or getattr(entry, "shape", None) != mask.shape:
            return entry
        return jnp.where(mask, entry, jnp.zeros((), entry.dtype))

    return optax.tree.map_params(tx, mask_leaf, opt_state, masks)


def sparsify(
    tx: optax.GradientTransformation, topology: TopologyTransform, key: jax.Array
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that it trains a sparse network: two added lines in an optax loop.

    Every update masks the gradient, runs the optimizer, and keeps absent weights at exactly
    zero: `p' = (p + u) * m`. On the steps for which `topology.due` holds, the masks move right
    after the weight update, by the gradient of that step, and the optimizer's per-weight state
    follows. Selection runs on those steps only. Start from masked weights with `sparse_params`.

    Args:
      tx: any optax optimizer.
      topology: a method, from `make_topology` or `supjax.topologies`.
      key: typed PRNG key for first masks and random growth.

    Returns:
      An optax transformation. `update` needs `params`; further keyword arguments reach `tx`.

    Raises:
      ValueError: by `update`, if it gets no params.
      TypeError: if `key` is not a typed key.

    Source: the masking rules of METHOD section 2 (docs/architecture.md).

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> topology = supjax.make_topology("rigl", density=0.5, update_every=10)
    >>> tx = sparsify(optax.adam(1e-3), topology, jax.random.key(0))
    >>> params = {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    >>> opt_state = tx.init(params)
    >>> params = sparse_params(params, opt_state)
    >>> updates, opt_state = tx.update(params, opt_state, params)
    >>> supjax.density(optax.apply_updates(params, updates))
    0.5
    """
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError("key must be a typed PRNG key, as jax.random.key(0) makes")
    tx = optax.with_extra_args_support(tx)

    def init_fn(params: Params) -> SparsifyState:
        first, rest = jax.random.split(key)
        state = topology.init(first, params)
        inner = tx.init(apply_masks(params, state.masks))
        return SparsifyState(inner, state, jnp.zeros((), jnp.int32), rest)

    def update_fn(
        updates: Params, state: SparsifyState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Params, SparsifyState]:
        if params is None:
            raise ValueError("sparsify needs the weights: call update(grads, state, params)")
        grads, before = updates, state.topology
        if topology.observe is not None:
            before = topology.observe(grads, before)
        steps, inner = tx.update(
            apply_masks(grads, before.masks), state.inner, params, **extra_args
        )
        moved = apply_masks(optax.apply_updates(params, steps), before.masks)

        def move(before: TopologyState) -> TopologyState:
            key = jax.random.fold_in(state.key, state.step)
            return topology.update(key, grads, before, moved, state.step)

        due = jnp.asarray(topology.due(state.step))
        after = jax.lax.cond(due, move, lambda before: before, before)
        inner = mask_optimizer_state(tx, inner, after.masks)
        steps = jax.tree.map(
            lambda p, u, m: u if m is None else jnp.where(m, u, -p), params, steps, after.masks
        )
        return steps, SparsifyState(inner, after, state.step + 1, state.key)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def sparse_params(params: Params, opt_state: Any) -> Params:
    """Return the weights masked by the masks inside an optimizer state that holds `sparsify`'s.

    Args:
      params: the dense initial weights.
      opt_state: state of a `sparsify` optimizer, possibly wrapped by other transformations.

    Returns:
      The masked weights, to train from.

    Raises:
      ValueError: if the state holds no `SparsifyState`.

    >>> sparse_params({}, optax.sgd(0.1).init({}))
    Traceback (most recent call last):
      ...
    ValueError: the optimizer state holds no SparsifyState: wrap the optimizer with sparsify
    """
    return apply_masks(params, sparsify_state(opt_state).topology.masks)


def sparsify_state(opt_state: Any) -> SparsifyState:
    """Return the `SparsifyState` inside an optimizer state; see `sparse_params`."""
    found = [
        leaf
        for leaf in jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, SparsifyState))
        if isinstance(leaf, SparsifyState)
    ]
    if not found:
        raise ValueError(
            "the optimizer state holds no SparsifyState: wrap the optimizer with sparsify"
        )
    return found[0]
