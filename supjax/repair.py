"""Give a superposition back the activations of its members, channel by channel.

The mean of different networks has smaller pre-activations than they have, and prune-back takes away
more. Batch-norm statistics that are estimated again undo that; a network without batch norm needs
it in its weights.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from supjax.axes import stack_axes
from supjax.checks import listed
from supjax.leaf_names import is_bias, module_of, siblings
from supjax.tickets import on_nodes_of, on_own_nodes
from supjax.trees import map_named, named_leaves
from supjax.types import Ticket

PreactivationsFn = Callable[..., dict[str, jax.Array]]
"""`(variables, *inputs) -> {path of a kernel: pre-activations (examples, ..., channels)}`."""

LARGEST_FACTOR = 4.0
"""A channel is scaled by at most this, or its inverse: one whose weights are all but pruned away
has no signal to bring back."""

_FLOOR = 1e-3
"""Smallest deviation of a batch, as a share of that over all batches."""


class _Moments(NamedTuple):
    """What a layer's channels do in every batch, float64 `(batches, channels)`."""

    means: np.ndarray
    variances: np.ndarray


def repair(
    apply_fn: PreactivationsFn,
    members: Sequence[Ticket],
    result: Ticket,
    batches: Iterable[Any],
    *,
    shares: Sequence[float] | None = None,
    channels_first: bool = False,
) -> Ticket:
    """Bring mean and deviation of every channel of a superposition back to those of its members.

    With mean `m_k` and deviation `s_k` of a channel's pre-activation in member k, and m, s in the
    result, the channel becomes `f (z - m) + m + v`: its weights are multiplied by f and its bias
    becomes `f b + (1 - f) m + v`, so that nothing is added to the network, and pruned places stay
    zero. Ideally `f = sum_k a_k s_k / s` and `v = sum_k a_k m_k - m`. Both are shrunk towards no
    change where batches do not agree on them: `log f` and v are each multiplied by
    `x^2 / (x^2 + e^2)`, with x their own size and e its standard error over the batches, and f is
    held within `LARGEST_FACTOR`. A single batch shows no error and shrinks nothing.

    Layers are mended from input to output, each with the layers before it mended; layers that do
    not depend on each other share a pass over the data. A layer without bias gets f alone; its mean
    follows by the same factor. A channel that does not vary, in the members or in the result, is
    not scaled. What `apply_fn` does not return, such as the logits if it leaves them out, is left
    alone. With batch norm, estimate the statistics again afterwards (`recompute_batch_stats`).

    Args:
      apply_fn: `(variables, *inputs) -> {path: pre-activations}` with the variables `params` and
        `batch_stats`: by the path of the kernel, such as `conv1/kernel`, what the layer gives with
        its bias and before its nonlinearity, `(examples, ..., channels)`. See
        `linen_preactivations` and `nnx_preactivations`.
      members: the networks that were averaged.
      result: their superposition, of the same tree.
      batches: inputs; a tuple holds several arguments of `apply_fn`. They are gone over once a
        member and once a depth, so they are kept; some hundred examples are enough.
      shares: the members' shares `a_k` in the mean; None for equal ones.
      channels_first: whether the channels are the first axes of a kernel, as in Equinox, and not
        the last.

    Returns:
      The result with other weights and biases, on its own nodes and masks: its density is the same.

    Raises:
      ValueError: no members or batches, shares that do not fit, a path that names no kernel, a
        kernel that holds a stack of layers, channels that are not the kernel's, or
        pre-activations that are not finite.

    Source: Jordan et al., *REPAIR: REnormalizing Permuted Activations for Interpolation Repair*,
    ICLR 2023, section 4 (without shrinking).

    >>> def apply_fn(variables, x):
    ...     layer = variables["params"]
    ...     return {"w": x @ layer["w"] + layer["b"][None]}
    >>> def make(w, b):
    ...     return Ticket({"w": jnp.array([[w]]), "b": jnp.array([b])}, {"w": None, "b": None})
    >>> members = [make(2.0, 0.0), make(-2.0, 0.0)]  # their mean is 0 and 0; pruned it was 0.5
    >>> repair(apply_fn, members, make(0.5, 1.0), [jnp.array([[-1.0], [1.0]])]).params
    {'b': Array([0.], dtype=float32), 'w': Array([[2.]], dtype=float32)}
    """
    if not members:
        raise ValueError("repair needs at least one member, got none")
    weights = _checked_shares(shares, len(members))
    data = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    if not data:
        raise ValueError("batches is empty: at least one batch is needed")
    result = on_own_nodes(result)
    networks = [on_nodes_of(result, member, f"member {i}") for i, member in enumerate(members)]
    layers = _layers(apply_fn, result, data[0], channels_first)
    measure = _meter(apply_fn, layers, data)
    known = [measure(network) for network in networks]
    for depth in sorted({layer.depth for layer in layers.values()}):
        found = measure(result)
        for path, layer in layers.items():
            if layer.depth == depth:
                wanted = [moments[path] for moments in known]
                result = _mended(result, path, layer, *_change(wanted, weights, found[path]))
    return result


class _Layer(NamedTuple):
    """Where a layer stands and what it consists of.

    Attributes:
      depth: how many kernels its pre-activations depend on.
      factor: the shape in which a number a channel meets the kernel.
      channels: how many axes of the pre-activations are channels.
      bias: the path of its bias.
    """

    depth: int
    factor: tuple[int, ...]
    channels: int
    bias: str | None


def _checked_shares(shares: Sequence[float] | None, count: int) -> np.ndarray:
    if shares is None:
        return np.full(count, 1 / count)
    found = np.asarray(shares, np.float64)
    if found.shape != (count,) or not (found >= 0).all() or not np.isclose(found.sum(), 1):
        raise ValueError(
            f"shares must be {count} numbers of at least 0 that add up to 1, got {listed(shares)}"
        )
    return found


def _layers(
    apply_fn: PreactivationsFn, ticket: Ticket, inputs: Any, first: bool
) -> dict[str, _Layer]:
    """Return the layers that `apply_fn` names; their order is read off the traced program."""
    leaves = {k: v for k, v in named_leaves(ticket.params).items() if v is not None}
    shapes = jax.eval_shape(apply_fn, _variables(ticket), *inputs)
    if not isinstance(shapes, dict) or not shapes:
        raise ValueError("apply_fn must return a dict {path of a kernel: pre-activations}")
    unknown = shapes.keys() - {k for k, v in leaves.items() if v.ndim > 1}
    if unknown:
        raise ValueError(f"apply_fn names {min(unknown)!r}, which is no path of a kernel")
    stacked = shapes.keys() & stack_axes(ticket.params).keys()
    if stacked:
        raise ValueError(f"repair takes one layer a kernel: {min(stacked)!r} holds a stack of them")
    paths = sorted(shapes)
    kernels = [list(leaves).index(path) for path in paths]
    jaxpr = jax.make_jaxpr(lambda p, *rest: apply_fn({**_variables(ticket), "params": p}, *rest))(
        ticket.params, *inputs
    ).jaxpr
    modules = siblings(leaves)
    layers = {}
    for path in paths:
        _, used = partial_eval.dce_jaxpr(jaxpr, [other == path for other in paths])
        beside = modules[module_of(path)]
        biases = [k for k, leaf in beside.items() if k != path and is_bias(k, leaf, beside)]
        bias = biases[0] if len(biases) == 1 else None
        channels = _channels(shapes[path].shape, leaves[bias].shape if bias else None)
        factor = _factor_shape(path, leaves[path].shape, channels, first)
        layers[path] = _Layer(sum(used[i] for i in kernels), factor, len(channels), bias)
    return layers


def _channels(shape: tuple[int, ...], bias: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the axes of pre-activations that are channels: the bias's, else the last one."""
    if bias and len(bias) < len(shape) and shape[-len(bias) :] == bias:
        return bias
    return shape[-1:]


def _factor_shape(
    path: str, kernel: tuple[int, ...], channels: tuple[int, ...], first: bool
) -> tuple[int, ...]:
    """Return the shape in which a number a channel meets the kernel."""
    rest = (1,) * (len(kernel) - len(channels))
    if first and kernel[: len(channels)] == channels:
        return channels + rest
    if not first and kernel[len(rest) :] == channels:
        return rest + channels
    where = "first" if first else "last"
    raise ValueError(
        f"pre-activations of {path!r} have channels {channels}, which are not the {where} axes of "
        f"the kernel {kernel}; see channels_first"
    )


def _variables(ticket: Ticket) -> dict[str, Any]:
    return {"params": ticket.params, "batch_stats": ticket.batch_stats}


def _meter(
    apply_fn: PreactivationsFn, layers: dict[str, _Layer], data: Sequence[Any]
) -> Callable[[Ticket], dict[str, _Moments]]:
    """Return the function that gives the moments of every layer; one program for all networks."""

    @jax.jit
    def of_batch(ticket: Ticket, inputs: Any) -> dict[str, tuple[jax.Array, jax.Array]]:
        moments = {}
        for path, z in apply_fn(_variables(ticket), *inputs).items():
            axes = tuple(range(z.ndim - layers[path].channels))
            wide = z.astype(jnp.promote_types(z.dtype, jnp.float32))
            moments[path] = jnp.mean(wide, axis=axes).ravel(), jnp.var(wide, axis=axes).ravel()
        return moments

    def measure(ticket: Ticket) -> dict[str, _Moments]:
        found = jax.device_get([of_batch(ticket, inputs) for inputs in data])
        moments = {}
        for path in layers:
            values = np.array([batch[path] for batch in found], np.float64)
            if not np.isfinite(values).all():
                raise ValueError(f"pre-activations of {path!r} are infinite or nan")
            moments[path] = _Moments(values[:, 0], values[:, 1])
        return moments

    return measure


def _change(
    members: Sequence[_Moments], shares: np.ndarray, result: _Moments
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean m, factor f and shift v of every channel."""
    mean, deviation = _overall(result)
    wanted = [_overall(moments) for moments in members]
    wanted_mean, wanted_deviation = (
        sum(a * pair[i] for a, pair in zip(shares, wanted, strict=True)) for i in (0, 1)
    )
    varies = (deviation > 0) & (wanted_deviation > 0)
    ratio = np.where(varies, _log_ratio(wanted_deviation, deviation), 0.0)

    def of_batches(moments: _Moments, overall: np.ndarray) -> np.ndarray:
        return np.maximum(np.sqrt(moments.variances), _FLOOR * overall)

    targets = sum(
        a * of_batches(moments, pair[1])
        for a, moments, pair in zip(shares, members, wanted, strict=True)
    )
    ratios = np.where(varies, _log_ratio(targets, of_batches(result, deviation)), 0.0)
    shifts = sum(a * moments.means for a, moments in zip(shares, members, strict=True))
    limit = np.log(LARGEST_FACTOR)
    factor = np.exp(np.clip(_shrunk(ratio, ratios), -limit, limit))
    return mean, factor, _shrunk(wanted_mean - mean, shifts - result.means)


def _overall(moments: _Moments) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation over all batches, which weigh the same."""
    mean = moments.means.mean(0)
    return mean, np.sqrt(moments.variances.mean(0) + moments.means.var(0))


def _log_ratio(first: Any, second: Any) -> np.ndarray:
    tiny = np.finfo(np.float64).tiny
    return np.log(np.maximum(first, tiny)) - np.log(np.maximum(second, tiny))


def _shrunk(size: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Return `x x^2 / (x^2 + e^2)`, with e the standard error of x over the batches."""
    count = len(batches)
    error = batches.var(0, ddof=1) / count if count > 1 else np.zeros_like(size)
    square = size**2
    return size * square / np.where(square > 0, square + error, 1.0)


def _mended(
    ticket: Ticket,
    path: str,
    layer: _Layer,
    mean: np.ndarray,
    factor: np.ndarray,
    shift: np.ndarray,
) -> Ticket:
    """Return the ticket with one layer scaled and shifted."""

    def mend(name: str, leaf: jax.Array) -> jax.Array:
        if name == path:
            scale = factor.reshape(layer.factor)
            return (leaf * jnp.asarray(scale, jnp.float32)).astype(leaf.dtype)
        if name == layer.bias and leaf.size == factor.size:
            moved = leaf.ravel() * jnp.asarray(factor, jnp.float32)
            added = jnp.asarray((1 - factor) * mean + shift, jnp.float32)
            return (moved + added).reshape(leaf.shape).astype(leaf.dtype)
        return leaf

    return ticket._replace(params=map_named(mend, ticket.params))
