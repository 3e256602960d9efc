"""What the outputs of a traced program depend on, such as those of an optimizer's update."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from supjax.types import Params, PyTree

Watch = Callable[[Any, Sequence[int]], None]
"""Called with an equation and what each of its inputs depends on."""


class UntraceableError(ValueError):
    """An optimizer that needs arguments of its own, or looks at values; the text says why."""


def trained_weights(params: Params) -> Params:
    """Return the weights that gradients are of: the fast ones of `optax.LookaheadParams`."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def traced_update(tx: optax.GradientTransformation, params: Params) -> Any:
    """Return the program of `(gradients, state, params) -> (updates of the weights, new state)`.

    It is traced, not run.

    Args:
      tx: any optax optimizer.
      params: the weights, or `optax.LookaheadParams`; only shapes and dtypes are read.

    Raises:
      UntraceableError: if it cannot be, even with the further arguments that are usual in optax.

    >>> traced_update(optax.sgd(0.1), {"w": jnp.ones(2)}).jaxpr.eqns[0].primitive.name
    'mul'
    """
    weights, tx = trained_weights(params), optax.with_extra_args_support(tx)
    usual = {"value": jnp.zeros(()), "grad": weights, "value_fn": lambda p: jnp.zeros(())}
    reasons = []
    for extra_args in ({}, usual):

        def update(grads: Params, state: PyTree, params: Params, extra: Any = extra_args) -> Any:
            updates, after = tx.update(grads, state, params, **extra)
            return trained_weights(updates), after

        try:
            return jax.make_jaxpr(update)(weights, jax.eval_shape(tx.init, params), params)
        except Exception as error:
            reasons.append(" ".join(str(error).split())[:120])
    raise UntraceableError(reasons[0])


def reached(jaxpr: Any, sources: Sequence[int], watch: Watch | None = None) -> list[int]:
    """Return, as sets of bits, the inputs that every output of a program depends on.

    Args:
      jaxpr: the program, as `jax.make_jaxpr(...)(...).jaxpr`.
      sources: what each of its inputs stands for, as bits.
      watch: is shown every equation, those of programs inside as well, but for loops.

    >>> import jax
    >>> program = jax.make_jaxpr(lambda x, y, z: (x + y, y * 0.0, 2 * z))(1.0, 2.0, 3.0)
    >>> reached(program.jaxpr, [1, 2, 4])
    [3, 0, 4]
    """
    known = dict(zip(jaxpr.invars, sources, strict=True))

    def read(var: Any) -> int:
        return 0 if hasattr(var, "val") else known.get(var, 0)

    for eqn in jaxpr.eqns:
        inputs = [read(var) for var in eqn.invars]
        if watch is not None:
            watch(eqn, inputs)
        outputs = _through(eqn, inputs, watch)
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _through(eqn: Any, inputs: Sequence[int], watch: Watch | None) -> list[int]:
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
        branches = [reached(branch.jaxpr, inputs[1:], watch) for branch in eqn.params["branches"]]
        return [_union(outputs) for outputs in zip(*branches, strict=True)]
    inner = next((eqn.params[name] for name in ("jaxpr", "call_jaxpr") if name in eqn.params), None)
    inner = getattr(inner, "jaxpr", inner)
    looping = kind in ("scan", "while")
    if inner is None or looping or len(inner.invars) != len(inputs):
        return [everything] * count
    outputs = reached(inner, inputs, watch)
    return outputs if len(outputs) == count else [everything] * count


def _is_zero(var: Any) -> bool:
    value = getattr(var, "val", None)
    return value is not None and jnp.ndim(value) == 0 and bool(value == 0)


def _union(sets: Sequence[int]) -> int:
    whole = 0
    for bits in sets:
        whole |= bits
    return whole
