"""One optimizer step of a sparse network: whatever lies outside the masks stays fresh and still."""

import contextlib
from collections.abc import Callable, Container, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from supjax.dataflow import UntraceableError, reached, traced_update, trained_weights
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


def divided_entries(tx: optax.GradientTransformation, params: Params) -> list[bool]:
    """Say of every leaf of an optimizer's state whether gradients are divided by it unchanged.

    Such is the second moment of `optax.contrib.acprop`, which is that from before the step; that
    of Adam is not, as the gradient is added to it first. It is read off the optimizer's own
    program; where that cannot be traced, no leaf counts.

    Args:
      tx: any optax optimizer.
      params: the weights; only shapes and dtypes are read.

    >>> params = {"w": jnp.ones(2)}
    >>> [divided_entries(tx, params) for tx in (optax.adam(0.1), optax.contrib.acprop(0.1))]
    [[False, False, False], [False, False, True]]
    """
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(params)):
        return []  # what is no array is refused by name where masks are drawn
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    shapes = jax.tree.leaves(jax.eval_shape(tx.init, params))
    found = 0

    def watch(eqn: Any, inputs: Sequence[int]) -> None:
        nonlocal found
        kind, below = eqn.primitive.name, 0
        if kind == "div":
            below = inputs[1]
        elif kind == "rsqrt":
            below = inputs[0]
        elif kind in ("pow", "integer_pow"):
            power = eqn.params.get("y", getattr(eqn.invars[-1], "val", 0))
            below = inputs[0] if power < 0 else 0
        found |= 0 if below & 1 else below

    if any(leaf.ndim for leaf in shapes):
        with contextlib.suppress(UntraceableError):
            program = traced_update(tx, params).jaxpr
            sources = [1] * len(jax.tree.leaves(trained_weights(params)))
            sources += [2 << index for index in range(len(shapes))]
            sources += [0] * (len(program.invars) - len(sources))
            reached(program, sources, watch)
    return [bool(found >> index + 1 & 1 and leaf.ndim) for index, leaf in enumerate(shapes)]


def start_grown(
    tx: optax.GradientTransformation,
    opt_state: PyTree,
    params: Params,
    kept: Masks,
    masks: Masks,
    divided: Sequence[bool],
) -> PyTree:
    """Return an optimizer's state with which weights that were just grown can take a first step.

    A grown weight has a fresh state. Some optimizers, such as `optax.contrib.acprop`, divide by
    the second moment from before their step: at a late step a fresh one makes the update millions
    of times too large. There a grown weight gets the mean of its leaf's kept weights instead, and
    its first steps are as large as theirs. For all other optimizers (SGD, Adam, ...) the state is
    returned as it is, and nothing is computed.

    Args:
      tx: the optimizer that made the state.
      opt_state: its state, fresh outside the masks of `kept`.
      params: the weights; only shapes and dtypes are read.
      kept: masks of what was there before and after.
      masks: masks that also hold what was grown.
      divided: what `divided_entries` says of the state.

    Returns:
      The state.

    >>> tx, params = optax.contrib.acprop(0.1), {"w": jnp.ones((1, 3))}
    >>> state = tx.update(params, tx.init(params), params)[1]
    >>> kept, masks = ({"w": jnp.array([[True, more, False]])} for more in (False, True))
    >>> state = mask_optimizer_state(tx, state, params, kept)
    >>> state = start_grown(tx, state, params, kept, masks, divided_entries(tx, params))
    >>> (1e3 * state[0].nu["w"]).round(3).tolist()
    [[1.0, 1.0, 0.0]]
    """
    if not any(divided):
        return opt_state
    before, after = named_leaves(kept, "kept"), named_leaves(masks, "masks")

    def started(name: str, entry: Any) -> Any:
        old, new = before.get(name), after.get(name)
        if old is None or new is None or jnp.shape(entry) != old.shape:
            return None
        count = jnp.count_nonzero(old)
        mean = jnp.sum(jnp.where(old, entry, 0)) / jnp.maximum(count, 1)
        return jnp.where(new & ~old & (count > 0), mean.astype(entry.dtype), entry)

    entries: list[Any]
    structure: Any
    entries, structure = jax.tree.flatten(opt_state)
    changed = structure.flatten_up_to(_map_weight_entries(tx, started, opt_state, before))
    return structure.unflatten(
        new if by and new is not None else old
        for old, new, by in zip(entries, changed, divided, strict=True)
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
