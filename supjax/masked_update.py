"""One optimizer step of a sparse network: whatever lies outside the masks stays fresh and still."""

from collections.abc import Callable, Container
from typing import Any

import jax
import jax.numpy as jnp
import optax

from supjax.masks import apply_masks
from supjax.trees import map_named, named_leaves, owner
from supjax.types import Masks, Params, PyTree


def mask_optimizer_state(
    tx: optax.GradientTransformation, opt_state: PyTree, params: Params, masks: Masks
) -> PyTree:
    """Make an optimizer forget the weights outside the masks, as if they were new.

    Momentum, both Adam moments, accumulated gradients: whatever `optax.tree.map_params` finds
    that has a weight's shape gets the value there that `tx.init` gives to a zero weight. That is
    zero for all of these; AdaGrad's accumulator and Rprop's step sizes start elsewhere. The same
    goes for copies stacked along leading axes, the history of `optax.lbfgs`, whose pairs then speak
    of the active weights alone. Factored statistics of other shapes are left alone.

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
    flags = named_leaves(masks, "masks")

    def place(name: str, entry: Any) -> Any:
        mask, shape = flags.get(name), jnp.shape(entry)
        if mask is None or shape[max(len(shape) - mask.ndim, 0) :] != mask.shape:
            return None
        return jnp.broadcast_to(mask, shape)

    fresh = tx.init(jax.tree.map(jnp.zeros_like, params))
    return jax.tree.map(
        lambda entry, new, mask: entry if mask is None else jnp.where(mask, entry, new),
        opt_state,
        fresh,
        _map_weight_entries(tx, place, opt_state, flags),
    )


def _map_weight_entries(
    tx: optax.GradientTransformation,
    f: Callable[[str, Any], Any],
    opt_state: PyTree,
    names: Container[str],
) -> PyTree:
    """Return a state's tree with `f(name of a weight, entry)` on its copies of the params.

    All other entries become None. Weights are known by name, because a copy need not have all
    of the params' leaves: `optax.masked` and `optax.partition` leave holes in their states.
    `optax.tree.map_params` says where the copies are. It cannot where an optimizer looks at its
    params, as labels by a function of the user's do, which then raise whatever they raise; there,
    an entry belongs to the weight with the longest name that its own path ends in.
    """

    def by_path(path: str, entry: Any) -> Any:
        name = owner(path, names)
        return None if name is None else f(name, entry)

    try:
        return optax.tree.map_params(
            tx,
            lambda copy: map_named(f, copy),
            opt_state,
            transform_non_params=lambda _: None,
            is_leaf=lambda _: True,
        )
    except Exception:
        return map_named(by_path, opt_state)


def with_masks(params: Params, masks: Masks) -> Masks:
    """Return the masks for all that the params hold: `optax.LookaheadParams` hold weights twice.

    >>> with_masks({"w": 1.0}, {"w": True})
    {'w': True}
    """
    twice = isinstance(params, optax.LookaheadParams)
    return optax.LookaheadParams(fast=masks, slow=masks) if twice else masks


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
      params: weights, or `optax.LookaheadParams`; finite outside the masks.
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
    everywhere = with_masks(params, masks)
    updates, opt_state = tx.update(
        apply_masks(grads, masks), clean, apply_masks(params, everywhere), **extra_args
    )
    updates = jax.tree.map(
        lambda p, u, m: u if m is None else jnp.where(m, u, -p), params, updates, everywhere
    )
    return updates, opt_state
