"""What an optimizer never trains is neither dropped nor grown.

Whether a leaf is trained is read off the optimizer's own program: a leaf is frozen if its update
does not depend on its gradient. `optax.set_to_zero`, `freeze`, `partition` and
`selective_transform` return constants there, whatever labels or masks say it, so no value has to
be looked at: a rate of zero in a warm-up or a batch without gradients freezes nothing. The program
is traced, not run, and where a dependence cannot be followed it is assumed: no trained leaf is
ever taken for a frozen one. A rate that lies in the state (`optax.inject_hyperparams`) may change,
so that it is zero today freezes nothing either.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from supjax.dataflow import UntraceableError, reached, traced_update, trained_weights
from supjax.trees import map_named, named_leaves, rehang
from supjax.types import Masks, Params, PyTree, TopologyState, TopologyTransform

Names = frozenset[str]


def frozen_leaves(tx: optax.GradientTransformation, params: Params) -> Names:
    """Return the names of the leaves whose update does not depend on their gradient.

    Args:
      tx: any optax optimizer.
      params: the weights, or `optax.LookaheadParams`; only shapes and dtypes are read.

    Returns:
      Names such as `body/kernel`; none where the optimizer cannot be traced.

    Warns:
      UserWarning: if it cannot, as it needs arguments of its own or looks at values.

    >>> import jax.numpy as jnp
    >>> tx = optax.partition({"a": optax.adam(1.0), "z": optax.set_to_zero()}, {"x": "a", "y": "z"})
    >>> sorted(frozen_leaves(tx, {"x": jnp.ones(2), "y": jnp.ones(2)}))
    ['y']
    """
    weights = trained_weights(params)
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(weights)):
        return frozenset()  # what is no array is refused by name where masks are drawn
    try:
        program = traced_update(tx, params).jaxpr
    except UntraceableError as error:
        warnings.warn(
            "the optimizer cannot be traced before training, so no leaf counts as frozen: keep "
            "what it freezes dense, with filter_fn=supjax.filters.by_pattern('!frozen/*') "
            f"({error})",
            stacklevel=2,
        )
        return frozenset()
    names = [name for name, leaf in named_leaves(weights).items() if leaf is not None]
    sources = [1 << i if i < len(names) else 0 for i in range(len(program.invars))]
    depends = reached(program, sources)
    return frozenset(name for i, name in enumerate(names) if not depends[i] >> i & 1)


def trained_only(tree: PyTree, frozen: Names) -> PyTree:
    """Return a tree with None in place of its frozen leaves.

    >>> trained_only({"base": 1, "head": 2}, frozenset({"base"}))
    {'base': None, 'head': 2}
    """
    return map_named(lambda name, leaf: None if name in frozen else leaf, tree)


def without_frozen(topology: TopologyTransform, frozen: Names) -> TopologyTransform:
    """Return the method as it is for the leaves that are trained; it never sees the others.

    Masks of frozen leaves, where the start gives any, stay what they are; without, these leaves
    are dense.

    >>> import supjax
    >>> method = without_frozen(supjax.make_topology("static", density=0.5), frozenset({"base"}))
    >>> params = {"base": jnp.ones((2, 2)), "head": jnp.ones((2, 2))}
    >>> masks = method.init(jax.random.key(0), params).masks
    >>> masks["base"], int(masks["head"].sum())
    (None, 2)
    """
    if not frozen:
        return topology

    def seen(tree: PyTree) -> PyTree:
        return trained_only(tree, frozen)

    def seen_state(state: TopologyState) -> TopologyState:
        return TopologyState(seen(state.masks), seen(state.ever_active), state.extra)

    def whole(tree: PyTree, rest: PyTree) -> PyTree:
        others = {name: leaf for name, leaf in named_leaves(rest).items() if name in frozen}
        return rehang(named_leaves(tree) | others, tree)

    def whole_state(state: TopologyState, masks: Masks, ever_active: Masks) -> TopologyState:
        return TopologyState(
            whole(state.masks, masks), whole(state.ever_active, ever_active), state.extra
        )

    def init(
        key: jax.Array, params: Params, *, masks: Masks | None = None, **further: Any
    ) -> TopologyState:
        scored = {
            name: f if f is None else _after(lambda some: whole(some, params), f)
            for name, f in further.items()
        }
        if masks is not None:
            scored["masks"] = seen(masks)
        state = topology.init(key, seen(params), **scored)
        rest = map_named(lambda name, leaf: None, params) if masks is None else masks
        return whole_state(state, rest, jax.tree.map(jnp.copy, rest))

    def update(
        key: jax.Array,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Any,
        **further: Any,
    ) -> TopologyState:
        own = seen_state(state)
        if not jax.tree.leaves(own.masks):
            return state
        moved = topology.update(key, seen(grads), own, seen(params), step, **further)
        return whole_state(moved, state.masks, state.ever_active)

    def observe(grads: Params, state: TopologyState) -> TopologyState:
        assert topology.observe is not None
        noted = topology.observe(seen(grads), seen_state(state))
        return whole_state(noted, state.masks, state.ever_active)

    return topology._replace(
        init=init, update=update, observe=None if topology.observe is None else observe
    )


def _after(first: Callable[[Any], Any], then: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda argument: then(first(argument))
