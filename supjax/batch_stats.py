"""Batch-norm statistics of an averaged network: running averages, or a pass over data.

A superposed network has weights that no batch-norm layer has ever seen in training. Its running
statistics are either averaged like the weights (`average_batch_stats`) or estimated again from
data (`recompute_batch_stats`). Yin et al., UAI 2022, find no clear winner.

A layer updates its statistics as `new = m * old + (1 - m) * moment`, whichever framework it comes
from. Two ordinary training-mode passes from different `old` give the momentum m, and one from
`old = 0` gives `moment`, in the convention (biased or unbiased variance) in which the layer stores
it. Differences are used and not derivatives, because nnx and Haiku stop the gradient there.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from supjax.superposition.averaging import running_mean
from supjax.tickets import check_same_shapes
from supjax.trees import map_named, named_leaves, rehang
from supjax.types import Params, PyTree, Scalar, Ticket

ApplyFn = Callable[..., Any]
"""A model in training mode: `(variables, *inputs) -> (outputs, {"batch_stats": updated})`."""

Moments = dict[str, jax.Array]
"""Floating-point statistics by path, such as `bn1/mean`, in at least float32."""

Averages = tuple[tuple[str, str, float], ...]
"""`(path, path of the running average that it follows, usually itself, and momentum of that)`."""

_SPREAD = 1e-5
"""How far the slopes of one statistic may lie apart; rounding in float32 makes them 1e-6."""

_ROUNDING = 5e-7
"""How far a slope read in float32 may lie from the decimal that the model's author typed."""


def floating_stats(stats: PyTree) -> Moments:
    """Return the floating-point leaves of a tree of statistics.

    >>> floating_stats({"bn": {"mean": jnp.ones(1, jnp.bfloat16), "steps": jnp.array(3)}})
    {'bn/mean': Array([1.], dtype=float32)}
    """
    return {
        path: jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float32))
        for path, leaf in named_leaves(stats, "batch_stats").items()
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    }


def replace_stats(stats: PyTree, new: Moments) -> PyTree:
    """Return `stats` with the leaves that `new` names.

    >>> replace_stats({"bn": {"mean": jnp.ones(1), "steps": 3}}, {"bn/mean": jnp.zeros(1)})
    {'bn': {'mean': Array([0.], dtype=float32), 'steps': 3}}
    """
    return map_named(lambda name, leaf: new.get(name, leaf), stats)


@functools.partial(jax.jit, static_argnums=0)
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


@functools.lru_cache(maxsize=64)
def _reads(apply_fn: ApplyFn, tree: Any, shapes: tuple[Any, ...]) -> dict[str, frozenset[str]]:
    """Return which statistics each updated statistic is computed from, and `""` for the data.

    It is read off the traced program. `tree` and `shapes` are the other arguments of `_updated`.
    """
    params, stats, old, inputs = arguments = jax.tree.unflatten(tree, shapes)
    jaxpr = _updated.trace(apply_fn, *arguments).jaxpr.jaxpr
    paths, data = sorted(old), len(jax.tree.leaves(inputs))
    names: list[str | None] = [None] * len(jax.tree.leaves((params, stats)))
    names += [*paths, *[""] * data]
    found = {}
    for path in paths:
        _, used = partial_eval.dce_jaxpr(jaxpr, [other == path for other in paths])
        pairs = zip(names, used, strict=True)
        found[path] = frozenset(name for name, use in pairs if use and name is not None)
    return found


class _Passes:
    """Training-mode passes over one batch, from statistics of choice."""

    def __init__(self, apply_fn: ApplyFn, ticket: Ticket, batch: Any) -> None:
        self.stats = floating_stats(ticket.batch_stats)
        self.apply_fn = apply_fn
        self._params, self._stats = ticket.params, ticket.batch_stats
        self._inputs = batch if isinstance(batch, tuple) else (batch,)

    def updated(self, starts: dict[str, float]) -> Moments:
        """Return the statistics after a pass; those without a start begin at the ticket's."""
        filled = {path: jnp.full_like(self.stats[path], start) for path, start in starts.items()}
        old = {**self.stats, **filled}
        return _updated(self.apply_fn, self._params, self._stats, old, self._inputs)

    def reads(self) -> dict[str, frozenset[str]]:
        """Return what each updated statistic is computed from (see `_reads`)."""
        leaves, tree = jax.tree.flatten((self._params, self._stats, self.stats, self._inputs))
        return _reads(self.apply_fn, tree, jax.eval_shape(lambda *arrays: arrays, *leaves))

    def outcomes(self, paths: Sequence[str]) -> dict[str, "_Outcomes"]:
        """Return what passes from three different starts make of some statistics."""
        first = jax.device_get(self.updated(dict.fromkeys(paths, 0.0)))
        sizes = {path: _size(first[path]) for path in paths}
        others = [self.updated({p: k * size for p, size in sizes.items()}) for k in (1, 2)]
        results = [first, *jax.device_get(others)]
        return {p: _Outcomes(sizes[p], np.array([r[p] for r in results], float)) for p in paths}


class _Outcomes(NamedTuple):
    """What became of a statistic that started at 0, at `size` and at twice that, stacked."""

    size: float
    values: np.ndarray


def _size(moment: np.ndarray) -> float:
    """Return a power of two so far above a moment that float32 keeps the digits of the slope.

    >>> _size(np.float32([3.0, 0.5]))
    32.0
    """
    largest = np.nan_to_num(abs(moment), posinf=0.0).max(initial=1.0)
    return float(8 * 2.0 ** np.ceil(np.log2(largest)))


def _momentum(outcomes: _Outcomes) -> float | None:
    """Return the slope of `new` in `old`, or None where it is no running average that moves.

    >>> _momentum(_Outcomes(8.0, np.array([[0.1], [0.1 + 0.9 * 8], [0.1 + 0.9 * 16]])))
    0.9
    """
    slopes = np.ravel(np.diff(outcomes.values, axis=0)) / outcomes.size
    if not slopes.size:
        return 0.0
    slope = float(slopes.mean())
    if not np.ptp(slopes) <= _SPREAD or not -_ROUNDING <= slope < 1 - _ROUNDING:
        return None
    # The shortest decimal is what the model's author typed, so that 1 - m is exact; the slope
    # alone would be off by 1e-4 of it at m = 0.999.
    decimals = (abs(round(slope, digits)) for digits in range(1, 8))
    return next((d for d in decimals if abs(d - slope) <= _ROUNDING), slope)


def _follows(copy: np.ndarray, average: np.ndarray) -> bool:
    """Tell whether one statistic is a positive multiple of another one, in all its entries."""
    if copy.shape != average.shape or not average.any():
        return False
    factor = np.vdot(copy, average) / np.vdot(average, average)
    return bool(factor > 0 and np.allclose(copy, factor * average, rtol=1e-5, atol=0))


def _find_averages(passes: _Passes) -> Averages:
    """Return the statistics that are running averages of batch moments, and their momenta.

    What does not depend on the data (frozen layers, the vectors of spectral norm) is none, and
    stays at its value while the others are probed: all at once, because no moment depends on a
    running average. Where some other statistic disturbs that, each for itself.
    """
    reads = passes.reads()
    moving = {path for path in passes.stats if "" in reads[path]}
    derived = {path: reads[path] & moving for path in moving if path not in reads[path]}
    together = passes.outcomes(sorted(moving))
    averages = {}
    for path in sorted(moving):
        if not derived.get(path):
            momentum = _momentum(together[path])
            averages[path] = _alone(passes, path) if momentum is None else momentum
    found = [(path, path, m) for path, m in averages.items() if m is not None]
    for path in sorted(moving - averages.keys()):
        # Haiku's `average` is `hidden` without the bias of its start at zero: a multiple of it,
        # which strives for the same moment.
        for source, _, momentum in [row for row in found if row[0] in derived[path]]:
            if _follows(together[path].values, together[source].values):
                found.append((path, source, momentum))
                break
    return tuple(found)


def _alone(passes: _Passes, path: str) -> float | None:
    outcomes = passes.outcomes([path])[path]
    if not np.isfinite(outcomes.values[0]).all():
        raise ValueError(f"the first batch makes batch_stats {path!r} infinite or nan")
    return _momentum(outcomes)


def _check_training(passes: _Passes) -> None:
    """Raise where no statistic is a running average, though something should be."""
    after = jax.device_get(passes.updated({}))
    moved = [path for path, old in passes.stats.items() if (after[path] != old).any()]
    if not moved:
        raise ValueError(
            f"apply_fn leaves batch_stats {min(after)!r} as it was: "
            "apply the model in training mode"
        )
    fed = [path for path, sources in passes.reads().items() if "" in sources]
    if fed:
        raise ValueError(f"batch_stats {min(fed)!r} is no running average of batch moments")


@functools.partial(jax.jit, static_argnums=1)
def _moments(updated: Moments, averages: Averages) -> Moments:
    """Return the moments of one batch from the statistics after a pass that started at 0."""
    return {path: updated[source] / (1 - momentum) for path, source, momentum in averages}


def read_momenta(apply_fn: ApplyFn, ticket: Ticket, batch: Any) -> dict[str, float | None]:
    """Return which statistics are running averages, and their momenta.

    A running average becomes `m * old + (1 - m) * moment` in a training-mode pass, where the
    moment depends on the batch and on no running average. Its momentum m is the difference
    quotient of what two passes make of two values of `old`; a third pass tells it from statistics
    that are something else.

    Args:
      apply_fn: the model in training mode, as `recompute_batch_stats` takes it.
      ticket: the network.
      batch: one batch of inputs; a tuple holds several arguments of `apply_fn`.

    Returns:
      By path, for every floating-point statistic: the momentum, in [0, 1), or None for what
      `recompute_batch_stats` leaves as it is: layers that are frozen or in evaluation mode, and
      what is no running average, such as the vectors of spectral norm.

    Raises:
      ValueError: the statistics after the pass have other paths, or are not finite.
      TypeError: `apply_fn` does not return `(outputs, {"batch_stats": ...})`.

    >>> def apply_fn(variables, x):
    ...     old = variables["batch_stats"]
    ...     return x, {"batch_stats": {**old, "mean": 0.9 * old["mean"] + 0.1 * x.mean(0)}}
    >>> ticket = Ticket({}, {}, {"frozen": jnp.ones(2), "mean": jnp.ones(2)})
    >>> read_momenta(apply_fn, ticket, jnp.ones((8, 2)))
    {'frozen': None, 'mean': 0.9}
    """
    passes = _Passes(apply_fn, ticket, batch)
    momenta = {path: momentum for path, _, momentum in _find_averages(passes)}
    return {path: momenta.get(path) for path in passes.stats}


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


def recompute_batch_stats(apply_fn: ApplyFn, ticket: Ticket, batches: Iterable[Any]) -> Ticket:
    """Estimate a ticket's batch-norm statistics again from data.

    The statistics become the mean over the batches of what a layer sees in each: `moment_i`, the
    mean or variance in batch i, in the convention in which the layer stores it (divided by n in
    linen and nnx, by n - 1 in layers that follow PyTorch). The momentum m of every layer is read
    off `apply_fn` (see `read_momenta`), so that the moments come out of one ordinary training-mode
    pass whatever the model's momentum and framework are.

    What is frozen, or no running average, keeps its value (`read_momenta` names it), and so do
    integer leaves, such as step counters. A network without such statistics (layer norm, group
    norm) is returned as it is.

    Args:
      apply_fn: the model in training mode, called as `apply_fn(variables, *inputs)` with the
        variables `params` and `batch_stats`, and returning `(outputs, {"batch_stats": new})`. In
        linen `functools.partial(model.apply, train=True, mutable=["batch_stats"])`; in nnx
        `supjax.nnx_apply_fn(model)`; with Haiku a function that calls `net.apply(params, state,
        None, x, is_training=True)` on them and returns `out, {"batch_stats": state}`. It is
        compiled once per shape of the batch; pass the same object again to reuse that.
      ticket: the network; its `batch_stats` give the structure and dtypes of the result.
      batches: iterable of inputs; a tuple holds several arguments of `apply_fn`, anything else is
        one argument. The leading axis counts the examples. The last batch may be smaller.

    Returns:
      The ticket with new `batch_stats`, on the nodes and in the dtypes of the old ones.

    Raises:
      ValueError: no batches, a model that does not run in training mode, or statistics none of
        which is a running average of batch moments.
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
    """
    stats = ticket.batch_stats
    if not floating_stats(stats):
        return ticket
    averages: Averages = ()
    running: Any = None
    for count, batch in enumerate(batches, start=1):
        passes = _Passes(apply_fn, ticket, batch)
        if count == 1:
            averages = _find_averages(passes)
            if not averages:
                _check_training(passes)
                return ticket
        updated = passes.updated({path: 0.0 for path, _, _ in averages})
        moments = _moments(updated, averages)
        running = moments if count == 1 else _fold(running, moments, count)
    if running is None:
        raise ValueError("batches is empty: at least one batch is needed")
    old = named_leaves(stats, "batch_stats")
    new = {path: leaf.astype(old[path].dtype) for path, leaf in running.items()}
    return ticket._replace(batch_stats=replace_stats(stats, new))


_fold = jax.jit(average_batch_stats)


def nnx_apply_fn(model: Any, **options: Any) -> ApplyFn:
    """Return an nnx model as the function that `recompute_batch_stats` takes.

    Batch-norm layers run in the mode in which they are now: call `model.train()` first, and put
    back to evaluation what is frozen. Dropout is switched off, because the statistics are for the
    network as it is evaluated.

    Args:
      model: a `flax.nnx.Module`; it is copied and stays as it is.
      **options: further arguments of every call of the model.

    Returns:
      `apply_fn(variables, *inputs) -> (outputs, {"batch_stats": state})`, where the weights are
      `nnx.Param`s and the statistics `nnx.BatchStat`s, on whichever nodes.

    >>> import supjax
    >>> from flax import nnx
    >>> model = nnx.BatchNorm(1, use_running_average=False, rngs=nnx.Rngs(0))
    >>> masks = supjax.dense_masks(nnx.state(model, nnx.Param))
    >>> ticket = Ticket(nnx.state(model, nnx.Param), masks, nnx.state(model, nnx.BatchStat))
    >>> batches = [jnp.array([[0.0], [2.0]]), jnp.array([[4.0], [8.0]])]
    >>> ticket = recompute_batch_stats(nnx_apply_fn(model), ticket, batches)
    >>> ticket.batch_stats["mean"][...], ticket.batch_stats["var"][...]
    (Array([3.5], dtype=float32), Array([2.5], dtype=float32))
    """
    from flax import nnx

    graph, *states = nnx.split(nnx.clone(model), nnx.Param, nnx.BatchStat, ...)
    params, stats, rest = states

    def apply_fn(variables: Any, *inputs: Any) -> tuple[Any, dict[str, Any]]:
        own = (
            rehang(variables["params"], params, ("params", "the model")),
            rehang(variables["batch_stats"], stats, ("batch_stats", "the model")),
        )
        copy = nnx.merge(graph, *own, rest, copy=True)
        copy.set_attributes(nnx.Dropout, deterministic=True, raise_if_not_found=False)
        outputs = copy(*inputs, **options)
        return outputs, {"batch_stats": nnx.state(copy, nnx.BatchStat)}

    return apply_fn
