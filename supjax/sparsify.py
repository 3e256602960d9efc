"""Sparse training inside somebody else's optax loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from supjax.bits import pack_masks, unpack_masks
from supjax.checks import check_key, check_trainer
from supjax.masked_update import masked_update
from supjax.masks import apply_masks
from supjax.types import Params, PyTree, TopologyState, TopologyTransform


class SparsifyState(NamedTuple):
    """State of `sparsify`.

    Attributes:
      inner: the wrapped optimizer's state.
      topology: the method's state, with the current masks.
      live: masks of the weights that the last update moved, as bits (see `supjax.bits`). A
        weight grown by it is in `topology.masks` already, but still zero; it goes live with the
        next step.
      step: updates so far, shape (), int32.
      key: typed key.

    >>> SparsifyState._fields
    ('inner', 'topology', 'live', 'step', 'key')
    """

    inner: PyTree
    topology: TopologyState
    live: PyTree
    step: jax.Array
    key: jax.Array


def sparsify(
    tx: optax.GradientTransformation, topology: TopologyTransform, key: jax.Array
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that it trains a sparse network: two added lines in an optax loop.

    Every update masks the gradient, runs the optimizer, and keeps absent weights at exactly
    zero: `p' = (p + u) * m`. On the steps for which `topology.due` holds, the masks move right
    after the weight update, by the gradient of that step, and the optimizer's per-weight state
    follows. Selection runs on those steps only. Start from masked weights with `sparse_params`.

    The updates bring absent weights to zero, so nothing may scale them afterwards: wrap the whole
    optimizer, `sparsify(optax.chain(...), ...)`. `optax.MultiSteps` and `optax.apply_if_finite`
    may stand on either side; outside, they hand over mean gradients, or skip whole updates.

    Args:
      tx: any optax optimizer.
      topology: a method, from `make_topology` or `supjax.topologies`.
      key: typed PRNG key for first masks and random growth.

    Returns:
      An optax transformation. `update` needs `params`; further keyword arguments reach `tx`.

    Raises:
      ValueError: by `update`, if it gets no params.
      TypeError: if `key` is not a typed key, `tx` no optimizer or `topology` no method.

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
    check_trainer(tx, topology)
    check_key(key)
    tx = optax.with_extra_args_support(tx)

    def init_fn(params: Params) -> SparsifyState:
        first, rest = jax.random.split(key)
        state = topology.init(first, params)
        inner = tx.init(apply_masks(params, state.masks))
        return SparsifyState(inner, state, pack_masks(state.masks), jnp.zeros((), jnp.int32), rest)

    def update_fn(
        updates: Params, state: SparsifyState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Params, SparsifyState]:
        if params is None:
            raise ValueError("sparsify needs the weights: call update(grads, state, params)")
        grads, before = updates, state.topology
        if topology.observe is not None:
            before = topology.observe(grads, before)

        def move(before: TopologyState) -> tuple[TopologyState, PyTree]:
            steps, _ = masked_update(tx, grads, state.inner, params, before.masks, **extra_args)
            moved = optax.apply_updates(params, steps)
            key = jax.random.fold_in(state.key, state.step)
            after = topology.update(key, grads, before, moved, state.step)
            kept = jax.tree.map(jnp.logical_and, before.masks, after.masks)
            return after, pack_masks(kept)

        def settle(before: TopologyState) -> tuple[TopologyState, PyTree]:
            return before, pack_masks(before.masks)

        due = jnp.asarray(topology.due(state.step))
        grown = jnp.asarray(topology.due(state.step - 1))
        after, live = _in_place_if(
            due | grown,
            lambda carry: jax.lax.cond(due, move, settle, carry[0]),
            (before, state.live),
        )
        masks = unpack_masks(params, live)
        steps, inner = masked_update(tx, grads, state.inner, params, masks, **extra_args)
        return steps, SparsifyState(inner, after, live, state.step + 1, state.key)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _in_place_if(predicate: jax.Array, f: Callable[[PyTree], PyTree], carry: PyTree) -> PyTree:
    """Return `f(carry)` if the predicate holds and the carry as it is otherwise.

    A loop of one turn or none. `jax.lax.cond` copies whatever its untaken branch passes on, which
    costs more than the optimizer's step; a loop leaves its carry where it is.
    """

    def turn(state: tuple[jax.Array, PyTree]) -> tuple[jax.Array, PyTree]:
        return jnp.zeros_like(state[0]), f(state[1])

    return jax.lax.while_loop(lambda state: state[0], turn, (predicate, carry))[1]


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
    """Return the `SparsifyState` inside an optimizer state, for its masks and step count.

    Args:
      opt_state: state of a `sparsify` optimizer, possibly wrapped by other transformations.

    Returns:
      The first `SparsifyState` found.

    Raises:
      ValueError: if the state holds none.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> topology = supjax.make_topology("static", density=0.5)
    >>> tx = sparsify(optax.sgd(0.1), topology, jax.random.key(0))
    >>> opt_state = optax.chain(optax.clip(1.0), tx).init({"w": jnp.ones((2, 4))})
    >>> supjax.density(sparsify_state(opt_state).topology.masks)
    0.5
    """
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
