"""Batch-norm statistics of an averaged network: running averages, or a pass over data.

A superposed network has weights that no batch-norm layer has ever seen in training. Its running
statistics are either averaged like the weights (`average_batch_stats`) or estimated again from
data (`recompute_batch_stats`). Yin et al., UAI 2022, find no clear winner.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from supjax.averaging import running_mean
from supjax.batch_moments import (
    ApplyFn,
    batch_moments,
    check_moments,
    floating_stats,
    read_momenta,
    replace_stats,
)
from supjax.checks import check_choice
from supjax.tickets import check_same_shapes
from supjax.types import PyTree, Scalar, Ticket


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
