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
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

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
    tx = optax.with_extra_args_support(tx)
    usual = {"value": jnp.zeros(()), "grad": weights, "value_fn": lambda p: jnp.zeros(())}
    reasons = []
    for extra_args in ({}, usual):

        def update(grads: Params, state: PyTree, params: Params, extra: Any = extra_args) -> Params:
            return trained_weights(tx.update(grads, state, params, **extra)[0])

        try:
            state = jax.eval_shape(tx.init, params)
            program = jax.make_jaxpr(update)(weights, state, params)
        except Exception as error:
            reasons.append(" ".join(str(error).split())[:120])
            continue
        names = [name for name, leaf in named_leaves(weights).items() if leaf is not None]
        sources = [1 << i if i < len(names) else 0 for i in range(len(program.jaxpr.invars))]
        reached = _reached(program.jaxpr, sources)
        return frozenset(name for i, name in enumerate(names) if not reached[i] >> i & 1)
    warnings.warn(
        "the optimizer cannot be traced before training, so no leaf counts as frozen: keep what it "
        f"freezes dense, with filter_fn=supjax.filters.by_pattern('!frozen/*') ({reasons[0]})",
        stacklevel=2,
    )
    return frozenset()


def _reached(jaxpr: Any, sources: Sequence[int]) -> list[int]:
    """Return, as sets of bits, the inputs that every output of a program depends on."""
    known = dict(zip(jaxpr.invars, sources, strict=True))

    def read(var: Any) -> int:
        return 0 if hasattr(var, "val") else known.get(var, 0)

    for eqn in jaxpr.eqns:
        inputs = [read(var) for var in eqn.invars]
        outputs = _through(eqn, inputs)
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _through(eqn: Any, inputs: Sequence[int]) -> list[int]:
    """Return what the outputs of one operation depend on.

    Programs inside it are followed, but for loops. A scalar decision between two arrays, such as
    that of `optax.apply_if_finite`, trains nothing by itself.
    """
    kind, count, everything = eqn.primitive.name, len(eqn.outvars), _union(inputs)
    if kind == "mul" and any(_is_zero(var) for var in eqn.invars):
        return [0] * count
    if kind == "select_n" and eqn.invars[0].aval.ndim == 0 < eqn.outvars[0].aval.ndim:
        return [_union(inputs[1:])]
    if kind == "cond":
        branches = [_reached(branch.jaxpr, inputs[1:]) for branch in eqn.params["branches"]]
        return [_union(outputs) for outputs in zip(*branches, strict=True)]
    inner = next((eqn.params[name] for name in ("jaxpr", "call_jaxpr") if name in eqn.params), None)
    inner = getattr(inner, "jaxpr", inner)
    looping = kind in ("scan", "while")
    if inner is None or looping or len(inner.invars) != len(inputs):
        return [everything] * count
    outputs = _reached(inner, inputs)
    return outputs if len(outputs) == count else [everything] * count


def _is_zero(var: Any) -> bool:
    value = getattr(var, "val", None)
    return value is not None and jnp.ndim(value) == 0 and bool(value == 0)


def _union(sets: Sequence[int]) -> int:
    whole = 0
    for bits in sets:
        whole |= bits
    return whole


def trained_weights(params: Params) -> Params:
    """Return the weights that gradients are of: the fast ones of `optax.LookaheadParams`."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params


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
