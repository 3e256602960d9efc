"""Masks chosen once, before training: SNIP, GraSP and SynFlow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from supjax.allocation import budget, ceil_share
from supjax.checks import check_count, check_density
from supjax.masks import apply_masks, count_maskable, dense_masks, given_masks
from supjax.prune_grow import prune_globally
from supjax.topologies.engine import fixed, method, start
from supjax.types import (
    AxesFn,
    LeafFilter,
    Masks,
    Params,
    PyTree,
    TopologyState,
    TopologyTransform,
)

ParamsFn = Callable[[Params], jax.Array]


@method
def snip(
    density: float, *, filter_fn: LeafFilter | None = None, axes_fn: AxesFn | None = None
) -> TopologyTransform:
    """Return SNIP: keep the largest `|gradient * weight|` over all layers together.

    `init` needs `loss_fn`, `params -> loss` on one or more batches of data.

    Args:
      density: share of kept weights over all maskable ones, in (0, 1].
      filter_fn: which leaves are sparse.
      axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults: scores compete over
        all layers together, but an exploration keeps the count of every layer, of a stack too.

    Returns:
      A `TopologyTransform` whose masks are fixed after `init`.

    Raises:
      ValueError: if density is out of range; by `init` if it gets no `loss_fn`.

    Source: Lee et al., *SNIP*, ICLR 2019, section 4.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.array([[3.0, 1.0], [2.0, 5.0]])}
    >>> loss = lambda p: jnp.sum(p["w"] * jnp.array([[1.0, 2.0], [3.0, 0.0]]))
    >>> snip(0.5).init(jax.random.key(0), params, loss_fn=loss).masks["w"].tolist()
    [[True, False], [True, False]]
    """

    def saliency(params: Params, masks: Masks, loss_fn: ParamsFn) -> PyTree:
        return _product(jax.grad(loss_fn)(params), params, masks, jnp.abs)

    return _one_shot("snip", density, filter_fn, axes_fn, saliency, "loss_fn")


@method
def grasp(
    density: float, *, filter_fn: LeafFilter | None = None, axes_fn: AxesFn | None = None
) -> TopologyTransform:
    """Return GraSP: keep the weights that carry the gradient flow, by `w * (H g)`.

    H is the Hessian and g the gradient of the loss at initialisation. `init` needs `loss_fn`,
    `params -> loss`; the authors divide the logits by a temperature of 200 in it.

    Args:
      density: share of kept weights over all maskable ones, in (0, 1].
      filter_fn: which leaves are sparse.
      axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults: scores compete over
        all layers together, but an exploration keeps the count of every layer, of a stack too.

    Returns:
      A `TopologyTransform` whose masks are fixed after `init`.

    Raises:
      ValueError: if density is out of range; by `init` if it gets no `loss_fn`.

    Source: Wang et al., *Picking Winning Tickets Before Training by Preserving Gradient Flow*,
    ICLR 2020, equation 8 (weights with the largest `-w * Hg` are removed).

    >>> import jax
    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.array([[1.0, -2.0]])}
    >>> loss = lambda p: jnp.sum(p["w"] ** 3)
    >>> grasp(0.5).init(jax.random.key(0), params, loss_fn=loss).masks["w"].tolist()
    [[False, True]]
    """

    def saliency(params: Params, masks: Masks, loss_fn: ParamsFn) -> PyTree:
        gradient = jax.grad(loss_fn)
        direction = jax.tree.map(
            lambda g, m: jnp.zeros_like(g) if m is None else g, gradient(params), masks
        )
        curvature = jax.jvp(gradient, (params,), (direction,))[1]
        return _product(curvature, params, masks, lambda score: score)

    return _one_shot("grasp", density, filter_fn, axes_fn, saliency, "loss_fn")


@method
def synflow(
    density: float,
    *,
    rounds: int = 100,
    filter_fn: LeafFilter | None = None,
    axes_fn: AxesFn | None = None,
) -> TopologyTransform:
    """Return SynFlow: iterative pruning by synaptic flow, without data.

    In round i of n the network keeps `density^(i/n)` of its weights, the largest
    `|dR/dw * w|` over all layers, with all weights replaced by their absolute values and R the
    sum of the outputs for an all-ones input. `init` needs `output_fn`, `params -> outputs` for that
    input (batch norm in evaluation mode).

    Args:
      density: share of kept weights over all maskable ones, in (0, 1].
      rounds: pruning rounds n; 100 in the paper.
      filter_fn: which leaves are sparse.
      axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults: scores compete over
        all layers together, but an exploration keeps the count of every layer, of a stack too.

    Returns:
      A `TopologyTransform` whose masks are fixed after `init`.

    Raises:
      ValueError: if an argument is out of range; by `init` if it gets no `output_fn`.

    Source: Tanaka et al., *Pruning neural networks without any data*, NeurIPS 2020, algorithm 1.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.array([[3.0, -1.0]])}
    >>> output = lambda p: jnp.ones(1) @ p["w"]
    >>> synflow(0.5).init(jax.random.key(0), params, output_fn=output).masks["w"].tolist()
    [[True, False]]
    """
    check_density(density)
    check_count(rounds, "rounds")

    def init(
        key: jax.Array, params: Params, *, masks: Masks | None = None, **extra_args: Any
    ) -> TopologyState:
        del key
        if masks is not None:
            return start(given_masks(params, masks))
        output_fn = _required(extra_args, "output_fn", "synflow")
        positive = jax.tree.map(jnp.abs, params)
        masks = dense_masks(params, filter_fn)
        size = count_maskable(masks)
        final = budget(density, size)
        gradient = jax.grad(lambda p: jnp.sum(output_fn(p)))

        @jax.jit
        def prune(masks: Masks, keep: jax.Array) -> Masks:
            current = apply_masks(positive, masks)
            scores = _product(gradient(current), current, masks, jnp.abs)
            return prune_globally(masks, scores, keep)

        for i in range(1, rounds + 1):
            keep = final if i == rounds else ceil_share(density ** (i / rounds), size)
            masks = prune(masks, jnp.maximum(keep, final))
        return start(masks)

    return fixed(init, density, axes_fn)


def _one_shot(
    name: str,
    density: float,
    filter_fn: LeafFilter | None,
    axes_fn: AxesFn | None,
    saliency: Callable[[Params, Masks, ParamsFn], PyTree],
    needs: str,
) -> TopologyTransform:
    """Return the method that keeps the globally largest saliencies at initialisation."""
    check_density(density)

    def init(
        key: jax.Array, params: Params, *, masks: Masks | None = None, **extra_args: Any
    ) -> TopologyState:
        del key
        if masks is not None:
            return start(given_masks(params, masks))
        loss_fn = _required(extra_args, needs, name)
        masks = dense_masks(params, filter_fn)
        keep = budget(density, count_maskable(masks))
        return start(prune_globally(masks, saliency(params, masks, loss_fn), keep))

    return fixed(init, density, axes_fn)


def _required(extra_args: dict[str, Any], name: str, method: str) -> ParamsFn:
    function = extra_args.get(name)
    if function is None:
        raise ValueError(f"{method} scores the network at init: pass {name}= to its init function")
    return function


def _product(
    first: Params, second: Params, masks: Masks, f: Callable[[jax.Array], jax.Array]
) -> PyTree:
    return jax.tree.map(lambda a, b, m: None if m is None else f(a * b), first, second, masks)
