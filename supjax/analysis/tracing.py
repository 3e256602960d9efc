"""Which weight takes part in how many multiplications: read off the traced program of any model.

The model is traced to a jaxpr. Whatever is computed from weights alone (casts, transposes,
products with a mask, standardisation) still belongs to those weights; every convolution and matrix
product is charged to the weight that it uses.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from supjax.trees import named_leaves
from supjax.types import Params

ACTIVATIONS = "(activations)"
"""The name of products in which no weight takes part, such as attention scores."""


class _Source(NamedTuple):
    """What a value is computed from."""

    weights: frozenset[int] = frozenset()
    data: bool = False


Charges = list[tuple[frozenset[int], int]]
"""`(weights that take part, floating-point operations)` for every product met."""


def layer_flops(apply_fn: Callable[..., Any], params: Params, *inputs: Any) -> dict[str, int]:
    """Count the operations of one forward pass, weight by weight.

    A convolution costs `2 * outputs * kernel area * input channels / groups`, a matrix product
    `2 * outputs * contracted size`: one multiplication and one addition each. Other operations are
    not counted. Nothing is compiled or run.

    Args:
      apply_fn: the model, called as `apply_fn(params, *inputs)`.
      params: weights, or `jax.ShapeDtypeStruct`s of them.
      *inputs: arguments, or `jax.ShapeDtypeStruct`s; a batch of 1 gives operations per sample.

    Returns:
      Operations by the path of the weight, in the order of use, and under `ACTIVATIONS` for
      products without a weight. What a kernel written by hand (Pallas) computes is not seen.

    Raises:
      ValueError: a product inside a loop whose number of turns is unknown before it runs.

    Source: Evci et al., *Rigging the Lottery*, ICML 2020, appendix H (counting convention).

    >>> import jax.numpy as jnp
    >>> params = {"w1": jnp.ones((3, 5)), "w2": jnp.ones((5, 2))}
    >>> layer_flops(lambda p, x: jnp.tanh(x @ p["w1"]) @ p["w2"], params, jnp.ones((1, 3)))
    {'w1': 30, 'w2': 20}
    """
    leaves = {k: leaf for k, leaf in named_leaves(params, "params").items() if leaf is not None}
    names = list(leaves)
    sizes = [math.prod(leaf.shape) for leaf in leaves.values()]
    closed = jax.make_jaxpr(apply_fn)(params, *inputs)
    data = [_Source(data=True)] * (len(closed.jaxpr.invars) - len(leaves))
    charges: Charges = []
    _walk(closed.jaxpr, [*(_Source(frozenset([i])) for i in range(len(leaves))), *data], charges)

    total: dict[str, int] = {}
    for owners, flops in charges:
        name = names[max(owners, key=lambda i: sizes[i])] if owners else ACTIVATIONS
        total[name] = total.get(name, 0) + flops
    return total


def _walk(jaxpr: core.Jaxpr, inputs: Sequence[_Source], charges: Charges) -> list[_Source]:
    """Follow a program from its inputs to its outputs, noting every product on the way."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    known.update((var, _Source()) for var in jaxpr.constvars)

    def source(atom: Any) -> _Source:
        return _Source() if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        results = _equation(eqn, [source(atom) for atom in eqn.invars], charges)
        known.update(zip(eqn.outvars, results, strict=True))
    return [source(atom) for atom in jaxpr.outvars]


def _equation(eqn: core.JaxprEqn, inputs: list[_Source], charges: Charges) -> list[_Source]:
    name = eqn.primitive.name
    if name in _CONTROL_FLOW:
        return _CONTROL_FLOW[name](eqn, inputs, charges)
    if name in _PRODUCTS:
        owners = (source.weights for source in inputs if not source.data)
        charges.append((frozenset().union(*owners), 2 * _PRODUCTS[name](eqn)))
    for value in eqn.params.values():  # jit, remat, custom derivatives: one program inside
        inner = value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
        if isinstance(inner, core.Jaxpr) and len(inner.invars) == len(inputs):
            return _walk(inner, inputs, charges)
    return [_join(inputs)] * len(eqn.outvars)


def _join(sources: Sequence[_Source]) -> _Source:
    if any(source.data for source in sources):
        return _Source(data=True)
    return _Source(frozenset().union(*(source.weights for source in sources)))


def _convolution(eqn: core.JaxprEqn) -> int:
    """Count multiplications; zeros that a transposed convolution inserts are not counted."""
    kernel, dimensions = _shape(eqn.invars[1]), eqn.params["dimension_numbers"]
    per_output = math.prod(kernel) // max(kernel[dimensions.rhs_spec[0]], 1)
    return math.prod(_shape(eqn.outvars[0])) * per_output // math.prod(eqn.params["lhs_dilation"])


def _matrix_product(eqn: core.JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = _shape(eqn.invars[0])
    return math.prod(_shape(eqn.outvars[0])) * math.prod(shape[axis] for axis in contracted)


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _settle(step: Callable[[list[_Source]], list[_Source]], carry: list[_Source]) -> list[_Source]:
    """Return what a loop's carry is computed from after any number of turns."""
    while True:
        after = [_join(pair) for pair in zip(carry, step(carry), strict=True)]
        if after == carry:
            return carry
        carry = after


def _scan(eqn: core.JaxprEqn, inputs: list[_Source], charges: Charges) -> list[_Source]:
    """Charge the body as often as it turns.

    The body takes constants, the carry, and slices of what it runs over; it returns the carry, and
    slices of what is stacked. Slices have one axis less inside than outside.
    """
    body = eqn.params["jaxpr"].jaxpr
    carried = _whole(eqn.outvars, body.outvars)
    last = _whole(eqn.invars, body.invars)
    first = last - carried

    def turn(carry: list[_Source], inner: Charges) -> list[_Source]:
        return _walk(body, [*inputs[:first], *carry, *inputs[last:]], inner)

    carry = _settle(lambda c: turn(c, [])[:carried], inputs[first:last])
    inner: Charges = []
    outputs = turn(carry, inner)
    charges.extend((owners, flops * eqn.params["length"]) for owners, flops in inner)
    return [*carry, *outputs[carried:]]


def _whole(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """Count the values that enter or leave the body of a scan whole."""
    pairs = zip(outside, inside, strict=True)
    return sum(len(_shape(outer)) == len(_shape(inner)) for outer, inner in pairs)


def _while(eqn: core.JaxprEqn, inputs: list[_Source], charges: Charges) -> list[_Source]:
    del charges
    first = eqn.params["cond_nconsts"]
    last = first + eqn.params["body_nconsts"]
    inner: Charges = []
    body = eqn.params["body_jaxpr"].jaxpr
    carry = _settle(lambda c: _walk(body, [*inputs[first:last], *c], inner), inputs[last:])
    if inner:
        raise ValueError("a while loop holds a matrix product: how often it turns is unknown")
    return carry


def _cond(eqn: core.JaxprEqn, inputs: list[_Source], charges: Charges) -> list[_Source]:
    """Charge the most expensive branch."""
    costs: list[Charges] = []
    results = []
    for branch in eqn.params["branches"]:
        costs.append([])
        results.append(_walk(branch.jaxpr, inputs[1:], costs[-1]))
    charges.extend(max(costs, key=lambda branch: sum(flops for _, flops in branch)))
    return [_join([inputs[0], *sources]) for sources in zip(*results, strict=True)]


_PRODUCTS: dict[str, Callable[[core.JaxprEqn], int]] = {
    "conv_general_dilated": _convolution,
    "dot_general": _matrix_product,
}

_CONTROL_FLOW: dict[str, Callable[[core.JaxprEqn, list[_Source], Charges], list[_Source]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
