"""What the averaging rules share: the registry, the budget, and mean + prune-back as one fold."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from supjax.allocation import apportion, budget
from supjax.axes import stack_axes
from supjax.checks import check_choice, check_density
from supjax.masks import apply_masks, count_active, count_maskable
from supjax.prune_grow import active_counts as layer_active_counts
from supjax.prune_grow import layer_by_layer, layer_sizes
from supjax.selection import largest_weight_masks
from supjax.superposition.averaging import running_mean
from supjax.tickets import on_nodes_of, on_own_nodes
from supjax.types import (
    AxesFn,
    Masks,
    Params,
    PyTree,
    Scalar,
    Superposition,
    SuperpositionState,
    Ticket,
)

SUPERPOSITIONS: dict[str, Callable[..., Superposition]] = {}
"""Name -> factory of every averaging rule; `averaging_rule` enters one."""

SCOPES = ("global", "layer")
"""Where the magnitude threshold of prune-back holds."""

Factory = TypeVar("Factory", bound=Callable[..., Superposition])


def averaging_rule(factory: Factory) -> Factory:
    """Enter a factory into `SUPERPOSITIONS` under its own name.

    Args:
      factory: `(...) -> Superposition`; its name becomes the rule's.

    Returns:
      The factory.

    >>> sorted(SUPERPOSITIONS)[:2]
    ['caa', 'cia']
    """
    SUPERPOSITIONS[factory.__name__] = factory
    return factory


class Budget(NamedTuple):
    """How many weights prune-back keeps, in all and in every sparse layer, `[L]`.

    With scope "layer" every slice of a stack is a layer.
    """

    keep: Scalar
    layers: jax.Array


Density = float | Budget | None
"""Share of maskable weights to keep; an exact budget; None for as many as a ticket has."""


class Layers(NamedTuple):
    """Which parts of a ticket prune-back treats by themselves; hashable.

    Attributes:
      scope: of the magnitude threshold, one of `SCOPES`.
      stacks: `(path, stack axes)` of the leaves with a threshold for every slice of theirs.
    """

    scope: str
    stacks: tuple[tuple[str, tuple[int, ...]], ...] = ()


def layers_of(params: Params, scope: str, axes_fn: AxesFn | None = None) -> Layers:
    """Return the layers of some weights; there are no stacks where one threshold holds for all.

    >>> import jax.numpy as jnp
    >>> params = {"up": {"kernel": jnp.zeros((3, 4, 8)), "bias": jnp.zeros((3, 8))}}
    >>> layers_of(params, "layer").stacks, layers_of(params, "global").stacks
    ((('up/kernel', (0,)),), ())
    """
    stacks = stack_axes(params, axes_fn) if scope == "layer" else {}
    return Layers(scope, tuple(stacks.items()))


def budget_of(density: Density, ticket: Ticket, layers: Layers) -> Budget:
    """Return the budget of folding in a ticket.

    A share is split over the layers in proportion to the ticket's active weights there.
    """
    if isinstance(density, Budget):
        return density
    stacks = dict(layers.stacks)
    active = layer_active_counts(ticket.masks, stacks)
    if density is None:
        return Budget(count_active(ticket.masks), active)
    keep = budget(density, count_maskable(ticket.masks))
    sizes = layer_sizes(ticket.masks, stacks)
    return Budget(keep, apportion(keep, active.astype(jnp.float32), sizes))


MeanFn = Callable[[Params, Ticket, PyTree, Scalar, Scalar], Params]
"""`(running params, ticket, extra, share, weight) -> params`, the mean before pruning; `share` is
that of the ticket where connections do not matter."""

NextExtraFn = Callable[[PyTree, Masks, Masks, Scalar], PyTree]
"""`(extra, masks of the fold, masks of the ticket, weight) -> extra` after a fold."""


def connection_independent(
    running: Params, ticket: Ticket, extra: PyTree, share: Scalar, weight: Scalar
) -> Params:
    """Return `(1 - share) running + share ticket`: an absent connection counts as 0."""
    del extra, weight
    return running_mean(running, ticket.params, share)


def nothing(extra: PyTree, folded: Masks, ticket: Masks, weight: Scalar) -> PyTree:
    """Return the state of a rule that has none."""
    del folded, ticket, weight
    return extra


def pruned_mean(
    mean: MeanFn = connection_independent,
    *,
    density: Density,
    scope: str,
    axes_fn: AxesFn | None = None,
    share: Callable[[Scalar, Scalar], Any] = lambda total, weight: weight / (total + weight),
    first_extra: Callable[[Masks, Scalar], PyTree] = lambda masks, weight: (),
    next_extra: NextExtraFn = nothing,
    weighted: bool = True,
) -> Superposition:
    """Return the rule that folds by a mean and prunes it back by magnitude after every fold.

    Args:
      mean: the arithmetic of a fold; a module's own function, as it is a key of compilation.
      density: see `Density`.
      scope: "global" prunes by one threshold over all maskable weights, "layer" by layers, of
        which a stack holds several.
      axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults.
      share: `(total weight so far, weight of the ticket) -> its share`.
      first_extra: `(masks, weight) -> extra` of the first member.
      next_extra: see `NextExtraFn`; a module's own function too.
      weighted: whether members may have weights.

    Raises:
      ValueError: if density or scope is not allowed.
    """
    if density is not None and not isinstance(density, Budget):
        check_density(density)
    check_choice(scope, "scope", SCOPES)

    def init(ticket: Ticket, weight: Scalar = 1.0) -> SuperpositionState:
        ticket = on_own_nodes(ticket)
        return SuperpositionState(ticket, 1, weight, first_extra(ticket.masks, weight))

    def fold(state: SuperpositionState, ticket: Ticket, weight: Scalar = 1.0) -> SuperpositionState:
        ticket = on_nodes_of(state.ticket, ticket, "ticket")
        own = share(state.weight, weight)
        layers = layers_of(ticket.params, scope, axes_fn)
        allowed = budget_of(density, ticket, layers)
        folded, extra = _fold(
            state.ticket, ticket, state.extra, own, weight, allowed, mean, next_extra, layers
        )
        return SuperpositionState(folded, state.members + 1, state.weight + weight, extra)

    def result(state: SuperpositionState) -> Ticket:
        """Folds have pruned already; a single member may still be too dense."""
        ticket = state.ticket
        layers = layers_of(ticket.params, scope, axes_fn)
        allowed = budget_of(density, ticket, layers)
        if isinstance(state.members, int):
            return prune_back(ticket, allowed, layers) if state.members == 1 else ticket
        return jax.lax.cond(
            state.members == 1, lambda t: prune_back(t, allowed, layers), lambda t: t, ticket
        )

    return Superposition(init, fold, result, weighted)


@partial(jax.jit, static_argnames=("mean", "next_extra", "layers"))
def _fold(
    running: Ticket,
    ticket: Ticket,
    extra: PyTree,
    share: Scalar,
    weight: Scalar,
    allowed: Budget,
    mean: MeanFn,
    next_extra: NextExtraFn,
    layers: Layers,
) -> tuple[Ticket, PyTree]:
    """Return the mean of `running` and `ticket`, pruned back, and what the rule remembers.

    One program for all of it; batch-norm statistics are averaged by the same share.
    """
    stats = running_mean(running.batch_stats, ticket.batch_stats, share)
    params = mean(running.params, ticket, extra, share, weight)
    folded = prune_back(Ticket(params, ticket.masks, stats), allowed, layers)
    return folded, next_extra(extra, folded.masks, ticket.masks, weight)


def prune_back(mean: Ticket, allowed: Budget, layers: Layers) -> Ticket:
    """Keep the largest magnitudes of a mean; a zero is never active."""
    if layers.scope == "global":
        weights = jax.tree.map(lambda w, m: None if m is None else w, mean.params, mean.masks)
        masks = largest_weight_masks(weights, allowed.keep)
    else:
        masks = layer_by_layer(
            lambda mask, weights, count: largest_weight_masks(weights, count),
            mean.masks,
            mean.params,
            jnp.asarray(allowed.layers),
            dict(layers.stacks),
        )
    return Ticket(apply_masks(mean.params, masks), masks, mean.batch_stats)
