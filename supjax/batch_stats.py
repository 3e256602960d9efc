"""Batch-norm statistics of an averaged network: running averages, or a pass over data.

A superposed network has weights that no batch-norm layer has ever seen in training. Its running
statistics are either averaged like the weights (`average_batch_stats`) or estimated again from
data (`recompute_batch_stats`). Yin et al., UAI 2022, find no clear winner.

A layer updates its statistics as `new = m * old + (1 - m) * moment`. The slope of `new` in `old`
is the momentum m, so one ordinary training-mode pass from `old = 0` yields `moment` for every
layer, whatever the model's momentum is and whichever module implements it.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from supjax.checks import check_choice
from supjax.superposition.averaging import running_mean
from supjax.tickets import check_same_shapes
from supjax.trees import path_str
from supjax.types import Params, PyTree, Scalar, Ticket

ApplyFn = Callable[..., Any]
"""A model in training mode: `(variables, *inputs) -> (outputs, {"batch_stats": updated})`."""

Moments = dict[str, jax.Array]
"""Floating-point statistics by path, such as `bn1/mean`, in at least float32."""

Momenta = tuple[tuple[str, float], ...]
"""`(path, momentum)` of every floating-point statistic."""


def floating_stats(stats: PyTree) -> Moments:
    """Return the floating-point leaves of a tree of statistics.

    >>> floating_stats({"bn": {"mean": jnp.ones(1, jnp.bfloat16), "steps": jnp.array(3)}})
    {'bn/mean': Array([1.], dtype=float32)}
    """
    return {
        path_str(path): jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float32))
        for path, leaf in jax.tree_util.tree_flatten_with_path(stats)[0]
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


def replace_stats(stats: PyTree, new: Moments) -> PyTree:
    """Return `stats` with the leaves that `new` names.

    >>> replace_stats({"bn": {"mean": jnp.ones(1), "steps": 3}}, {"bn/mean": jnp.zeros(1)})
    {'bn': {'mean': Array([0.], dtype=float32), 'steps': 3}}
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: new.get(path_str(path), leaf), stats)


def _updated(
    apply_fn: ApplyFn, params: Params, stats: PyTree, old: Moments, inputs: tuple[Any, ...]
) -> Moments:
    """Return the statistics after one training-mode pass that starts from `old`."""
    result = apply_fn({"params": params, "batch_stats": replace_stats(stats, old)}, *inputs)
    if not (isinstance(result, tuple) and len(result) == 2 and "batch_stats" in result[1]):
        raise TypeError(
            "apply_fn must return (outputs, {'batch_stats': ...}): "
            "apply the model with mutable=['batch_stats']"
        )
    updated = floating_stats(result[1]["batch_stats"])
    if updated.keys() != old.keys():
        name = min(updated.keys() ^ old.keys())
        raise ValueError(f"apply_fn and the ticket have different batch_stats: see {name!r}")
    return updated


@functools.partial(jax.jit, static_argnums=0)
def _slopes(apply_fn: ApplyFn, params: Params, stats: PyTree, inputs: tuple[Any, ...]) -> Moments:
    """Return d(updated)/d(old) entry by entry; the compiler drops all work on the data."""
    old = floating_stats(stats)
    ones = jax.tree.map(jnp.ones_like, old)
    return jax.jvp(lambda s: _updated(apply_fn, params, stats, s, inputs), (old,), (ones,))[1]


def read_momenta(
    apply_fn: ApplyFn, params: Params, stats: PyTree, inputs: tuple[Any, ...]
) -> Momenta:
    """Return the momentum of every running average in `stats`.

    Args:
      apply_fn: the model in training mode.
      params: its weights.
      stats: its `batch_stats`; any values.
      inputs: one batch, as the arguments of `apply_fn` after the variables.

    Returns:
      `(path, momentum)` for every floating-point leaf; momenta lie in [0, 1).

    Raises:
      ValueError: the model is not in training mode, or a leaf is no running average of a quantity
        that depends on the batch alone.

    >>> model = nn.BatchNorm(use_running_average=False, momentum=0.999)
    >>> variables = model.init(jax.random.key(0), jnp.ones((2, 3)))
    >>> apply_fn = functools.partial(model.apply, mutable=["batch_stats"])
    >>> read_momenta(apply_fn, variables["params"], variables["batch_stats"], (jnp.ones((2, 3)),))
    (('mean', 0.999), ('var', 0.999))
    """
    momenta = []
    for path, slope in jax.device_get(_slopes(apply_fn, params, stats, inputs)).items():
        low, high = (slope.min(), slope.max()) if slope.size else (0.0, 0.0)
        if low == high == 1:
            raise ValueError(
                f"apply_fn leaves batch_stats {path!r} as it was: apply the model in training mode"
            )
        if not 0 <= low == high < 1:
            raise ValueError(f"batch_stats {path!r} is no running average of batch moments")
        # The shortest decimal is what the model's author typed, so that 1 - m is exact; the
        # float32 slope alone would be off by 1e-5 at m = 0.999.
        momenta.append((path, float(str(low))))
    return tuple(momenta)


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="convert_to")
def batch_moments(
    apply_fn: ApplyFn,
    momenta: Momenta,
    params: Params,
    stats: PyTree,
    inputs: tuple[Any, ...],
    *,
    start: Scalar = 0.0,
    convert_to: str | None = None,
) -> Moments:
    """Return the moments of one batch, `(new - m * old) / (1 - m)` in every leaf.

    Args:
      apply_fn: the model in training mode; a static argument, as are `momenta`.
      momenta: what `read_momenta` found.
      params: the model's weights.
      stats: its `batch_stats`; only non-floating leaves matter.
      inputs: the batch, as the arguments of `apply_fn` after the variables.
      start: the value of `old`; moments are the same for all, and exact for 0.
      convert_to: `"unbiased"` multiplies leaves named `var` by n / (n - 1), `"biased"` by
        (n - 1) / n, where n values per channel enter the linen module that owns the leaf.

    Returns:
      The moments by path.

    Raises:
      ValueError: a conversion is asked for and n is unknown or below 2.

    >>> model = nn.BatchNorm(use_running_average=False, momentum=0.9)
    >>> x = jnp.array([[1.0], [5.0]])
    >>> stats = model.init(jax.random.key(0), x)["batch_stats"]
    >>> params = {"scale": jnp.ones(1), "bias": jnp.zeros(1)}
    >>> apply_fn = functools.partial(model.apply, mutable=["batch_stats"])
    >>> moments = batch_moments(apply_fn, (("mean", 0.9), ("var", 0.9)), params, stats, (x,))
    >>> {path: round(float(moment[0]), 5) for path, moment in moments.items()}
    {'mean': 3.0, 'var': 4.0}
    """
    old = {path: jnp.full_like(leaf, start) for path, leaf in floating_stats(stats).items()}
    counts: dict[str, int] = {}
    with nn.intercept_methods(_count_values(counts)):
        updated = _updated(apply_fn, params, stats, old, inputs)
    moments = {path: (updated[path] - m * old[path]) / (1 - m) for path, m in momenta}
    if convert_to is None:
        return moments
    variances = [path for path in moments if path.split("/")[-1] == "var"]
    if not variances:
        raise ValueError("batch_stats hold no leaf named 'var' to convert")
    for path in variances:
        moments[path] = moments[path] * _conversion(path, counts.get(path), convert_to)
    return moments


def check_moments(first: Moments, second: Moments, momenta: Momenta) -> None:
    """Raise unless the moments from `start=0` and from `start=1` agree.

    The slope alone does not tell: it is 0 where a layer hides its running average behind
    `stop_gradient`, and it may be constant by chance in one that is no running average.

    >>> check_moments({"mean": jnp.ones(1)}, {"mean": jnp.zeros(1)}, (("mean", 0.9),))
    Traceback (most recent call last):
      ...
    ValueError: batch_stats 'mean' is no running average of batch moments
    """
    first, second = jax.device_get((first, second))
    for path, momentum in momenta:
        slack = 1e-4 * (abs(first[path]) + 1 / (1 - momentum))
        if (abs(first[path] - second[path]) > slack).any():
            raise ValueError(f"batch_stats {path!r} is no running average of batch moments")


def _count_values(counts: dict[str, int]) -> Callable[..., Any]:
    """Return a linen interceptor that notes how many values stand behind each `var`."""

    def interceptor(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = next_fun(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and module.has_variable("batch_stats", "var"):
            arrays = [leaf for leaf in jax.tree.leaves((args, kwargs)) if hasattr(leaf, "size")]
            channels = module.get_variable("batch_stats", "var").size
            counts["/".join((*module.path, "var"))] = arrays[0].size // max(channels, 1)
        return result

    return interceptor


def _conversion(path: str, n: int | None, convert_to: str) -> float:
    if n is None:
        raise ValueError(f"no linen module owns batch_stats {path!r}: its values cannot be counted")
    if n < 2:
        raise ValueError(f"the unbiased variance {path!r} needs at least 2 values, got {n}")
    return n / (n - 1) if convert_to == "unbiased" else (n - 1) / n


def average_batch_stats(running: PyTree, new: PyTree, count: Scalar) -> PyTree:
    """Fold one more tree of statistics into a running mean.

    `running + (new - running) / count` in every leaf; after `count` folds of equal weight it is
    the arithmetic mean. Integer leaves (step counters) are rounded, other dtypes are kept.

    Args:
      running: the mean of the first `count - 1` trees; any pytree of arrays.
      new: the tree to fold in, of the same structure and shapes.
      count: number of trees including `new`, at least 1; may be traced. A fraction
        `total weight / weight of new` gives a weighted mean.

    Returns:
      The mean of all `count` trees, with the dtypes of `running`.

    Raises:
      ValueError: `count` is below 1, or the trees differ in structure or shape.

    Source: Yin et al., UAI 2022 (statistics averaged by the same running mean as the weights).

    >>> average_batch_stats({"mean": jnp.array([1.0, 3.0])}, {"mean": jnp.array([3.0, 3.0])}, 2)
    {'mean': Array([2., 3.], dtype=float32)}
    """
    if not isinstance(count, jax.core.Tracer) and not count >= 1:
        raise ValueError(f"count must be at least 1, got {count}")
    check_same_shapes(running, new, "the new statistics differ")
    return running_mean(running, new, 1 / count)


def recompute_batch_stats(
    apply_fn: ApplyFn,
    ticket: Ticket,
    batches: Iterable[Any],
    *,
    weighting: str = "batch",
    variance: str = "as_stored",
    stored: str = "biased",
) -> Ticket:
    """Estimate a ticket's batch-norm statistics again from data.

    The statistics become `sum_i w_i * moment_i / sum_i w_i` over the batches i, where `moment_i`
    is the mean or variance that a layer sees in batch i. The momentum m of every layer is read off
    `apply_fn` (the slope of `m * old + (1 - m) * moment` in `old`), so that the moments come out of
    one ordinary training-mode pass whatever the model's momentum is.

    Args:
      apply_fn: the model in training mode, called as `apply_fn(variables, *inputs)`, usually
        `functools.partial(model.apply, train=True, mutable=["batch_stats"])`. It is compiled once
        per shape of the batch; pass the same object again to reuse the compiled function.
      ticket: the network; its `batch_stats` give the structure and dtypes of the result, and
        integer leaves (step counters) keep their values.
      batches: iterable of inputs; a tuple holds several arguments of `apply_fn`, anything else is
        one argument. The leading axis counts the examples. The last batch may be smaller.
      weighting: `"batch"` weighs every batch the same, `"example"` by its number of examples.
      variance: `"as_stored"` keeps the layers' own convention; `"biased"` (divided by the number n
        of values per channel) and `"unbiased"` (by n - 1) convert leaves named `var`, with n
        counted at the linen module that owns the leaf.
      stored: the convention of the layers: `"biased"` for `flax.linen.BatchNorm`, `"unbiased"` for
        layers that follow PyTorch.

    Returns:
      The ticket with new `batch_stats`.

    Raises:
      ValueError: an unknown option, a ticket without `batch_stats`, no batches, a model that does
        not run in training mode or whose statistics are no running average of batch moments, or a
        conversion whose n cannot be counted.
      TypeError: `apply_fn` does not return `(outputs, {"batch_stats": ...})`.

    Source: Izmailov et al., UAI 2018, section 3.2; Yin et al., UAI 2022.

    >>> from flax import linen as nn
    >>> model = nn.BatchNorm(use_running_average=False, momentum=0.9)
    >>> batches = [jnp.array([[0.0], [2.0]]), jnp.array([[4.0], [8.0]])]
    >>> variables = model.init(jax.random.key(0), batches[0])
    >>> masks = {"bias": None, "scale": None}
    >>> ticket = Ticket(variables["params"], masks, variables["batch_stats"])
    >>> apply_fn = functools.partial(model.apply, mutable=["batch_stats"])
    >>> recompute_batch_stats(apply_fn, ticket, batches).batch_stats
    {'mean': Array([3.5], dtype=float32), 'var': Array([2.5], dtype=float32)}
    >>> recompute_batch_stats(apply_fn, ticket, batches, variance="unbiased").batch_stats["var"]
    Array([5.], dtype=float32)
    """
    check_choice(weighting, "weighting", ("batch", "example"))
    check_choice(variance, "variance", ("as_stored", "biased", "unbiased"))
    check_choice(stored, "stored", ("biased", "unbiased"))
    convert_to = None if variance in ("as_stored", stored) else variance
    params, stats = ticket.params, ticket.batch_stats
    if not floating_stats(stats):
        raise ValueError("the ticket has no batch_stats to estimate")

    running: Any = None
    total = 0
    for batch in batches:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        weight = _examples(inputs) if weighting == "example" else 1
        total += weight
        if running is None:
            momenta = read_momenta(apply_fn, params, stats, inputs)
            of_batch = functools.partial(
                batch_moments, apply_fn, momenta, params, stats, convert_to=convert_to
            )
            running = of_batch(inputs, start=0.0)
            check_moments(running, of_batch(inputs, start=1.0), momenta)
        else:
            running = _fold(running, of_batch(inputs, start=0.0), total / weight)
    if running is None:
        raise ValueError("batches is empty: at least one batch is needed")
    new = replace_stats(stats, running)
    return ticket._replace(batch_stats=jax.tree.map(lambda x, old: x.astype(old.dtype), new, stats))


_fold = jax.jit(average_batch_stats)


def _examples(inputs: tuple[Any, ...]) -> int:
    leaf = next((leaf for leaf in jax.tree.leaves(inputs) if jnp.ndim(leaf)), None)
    if leaf is None or not leaf.shape[0]:
        raise ValueError("weighting='example' needs batches with a leading axis of examples")
    return leaf.shape[0]
