"""One optimizer step of a sparse network: whatever lies outside the masks stays fresh and still."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from supjax.masks import apply_masks
from supjax.types import Masks, Params, PyTree


def mask_optimizer_state(
    tx: optax.GradientTransformation, opt_state: PyTree, params: Params, masks: Masks
) -> PyTree:
    """Make an optimizer forget the weights outside the masks, as if they were new.

    Momentum, both Adam moments, accumulated gradients: whatever `optax.tree.map_params` finds
    that has a weight's shape gets the value there that `tx.init` gives to a zero weight. That is
    zero for all of these; AdaGrad's accumulator and Rprop's step sizes start elsewhere. Factored
    statistics of other shapes are left alone.

    Args:
      tx: the optimizer that made the state.
      opt_state: its state.
      params: the weights; only shapes and dtypes are read.
      masks: masks of the params.

    Returns:
      The state with fresh entries outside the masks.

    >>> import jax.numpy as jnp
    >>> tx, params = optax.sgd(0.1, momentum=0.9), {"w": jnp.ones((1, 2))}
    >>> state = tx.update(params, tx.init(params))[1]
    >>> state = mask_optimizer_state(tx, state, params, {"w": jnp.array([[True, False]])})
    >>> state[0].trace["w"]
    Array([[1., 0.]], dtype=float32)
    """
    flags = dict(jax.tree_util.tree_leaves_with_path(masks))

    def place(path: Any, entry: Any) -> Any:
        mask = flags.get(path)
        return None if mask is None or mask.shape != entry.shape else mask

    # The masks are looked up by path, because a copy of the params' tree need not have all of
    # its leaves: `optax.masked` and `optax.partition` leave holes in their states.
    placed = optax.tree.map_params(
        tx,
        lambda copy: jax.tree_util.tree_map_with_path(place, copy),
        opt_state,
        transform_non_params=lambda _: None,
        is_leaf=lambda _: True,
    )
    fresh = tx.init(jax.tree.map(jnp.zeros_like, params))
    return jax.tree.map(
        lambda entry, new, mask: entry if mask is None else jnp.where(mask, entry, new),
        opt_state,
        fresh,
        placed,
    )


def masked_update(
    tx: optax.GradientTransformation,
    grads: Params,
    opt_state: PyTree,
    params: Params,
    masks: Masks,
    **extra_args: Any,
) -> tuple[Params, PyTree]:
    """Run one optimizer step of the weights inside the masks.

    The optimizer sees `g * m`, `p * m` and a state that is fresh outside the masks, and
    `p + updates` is exactly zero there. All masking comes before the optimizer's arithmetic
    where it can, so that a compiler fuses it into the passes over memory that happen anyway.

    Args:
      tx: any optax optimizer.
      grads: gradient.
      opt_state: state of the optimizer.
      params: weights; finite outside the masks.
      masks: masks of the params.
      **extra_args: further arguments of `tx.update`.

    Returns:
      The updates and the optimizer's new state.

    >>> import jax.numpy as jnp
    >>> params, masks = {"w": jnp.array([[2.0, 3.0]])}, {"w": jnp.array([[True, False]])}
    >>> tx = optax.sgd(0.5)
    >>> updates, _ = masked_update(tx, params, tx.init(params), params, masks)
    >>> optax.apply_updates(params, updates)["w"]
    Array([[1., 0.]], dtype=float32)
    """
    clean = mask_optimizer_state(tx, opt_state, params, masks)
    updates, opt_state = tx.update(
        apply_masks(grads, masks), clean, apply_masks(params, masks), **extra_args
    )
    updates = jax.tree.map(
        lambda p, u, m: u if m is None else jnp.where(m, u, -p), params, updates, masks
    )
    return updates, opt_state
