"""What the methods share: registry, arguments, first masks, bookkeeping of R_s, the binding."""

import inspect
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, get_args

import jax
import jax.numpy as jnp

from supjax.axes import Stacks, stack_axes
from supjax.checks import check_choice, check_count, check_density
from supjax.densities import DISTRIBUTIONS, init_masks
from supjax.masks import dense_masks, given_masks
from supjax.prune_grow import advance, prune_and_grow
from supjax.schedules import constant_fraction, every
from supjax.types import (
    AxesFn,
    LeafFilter,
    Masks,
    Params,
    PyTree,
    Scalar,
    Schedule,
    TopologyInitFn,
    TopologyState,
    TopologyTransform,
)

METHODS: dict[str, Callable[..., TopologyTransform]] = {}
"""Name -> factory of every method; `method` enters one."""

Factory = TypeVar("Factory", bound=Callable[..., TopologyTransform])


class Start(TypedDict, total=False):
    """The arguments that say where random first masks lie.

    distribution: layer densities of the start, "erk" or "uniform".
    filter_fn: which leaves are sparse; default: `supjax.filters.kernels`.
    axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults.
    """

    distribution: str
    filter_fn: LeafFilter | None
    axes_fn: AxesFn | None


class Shared(Start, total=False):
    """The arguments that every method with periodic updates takes, beside those of `Start`.

    drop_fraction: share of active weights that an update moves, a number or `step -> share`.
    update_every: steps Delta T between updates.
    stop: first step without updates; None for never.
    """

    drop_fraction: float | Schedule
    update_every: int
    stop: int | None


def method(factory: Factory) -> Factory:
    """Enter a factory into `METHODS` under its own name.

    Arguments that it takes as `**shared` become part of its signature, with the defaults of
    `periodic`, and of its docstring, with the words of `Shared`.

    Args:
      factory: `(density, ...) -> TopologyTransform`; its name becomes the method's.

    Returns:
      The factory.

    >>> import inspect
    >>> str(inspect.signature(METHODS["set"]).parameters["update_every"])
    'update_every: int = 1000'
    """
    signature = inspect.signature(factory)
    own = dict(signature.parameters)
    if own.pop("shared", None) is not None:
        lines = f"{Shared.__doc__}{Start.__doc__}".splitlines()
        texts = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
        (kind,) = get_args(factory.__annotations__["shared"])
        names = [name for name in texts if name in kind.__annotations__]
        offered = inspect.signature(periodic).parameters
        added = {name: offered[name] for name in names if name not in own}
        parameters = [*own.values(), *added.values()]
        factory.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        described = "\n".join(f"      {name}: {texts[name]}" for name in added)
        factory.__doc__ = (factory.__doc__ or "").replace(
            "      **shared: see `Shared`.", described
        )
    METHODS[factory.__name__] = factory
    return factory


def start(masks: Masks, extra: PyTree = ()) -> TopologyState:
    """Return the state at step 0: what is active now has been active."""
    return TopologyState(masks, jax.tree.map(jnp.copy, masks), extra)


def random_start(
    density: float,
    distribution: str,
    filter_fn: LeafFilter | None,
    axes_fn: AxesFn | None = None,
) -> TopologyInitFn:
    """Return the init function of random masks with exact counts, unless it is given others."""
    check_density(density)
    check_choice(distribution, "distribution", DISTRIBUTIONS)

    def init(
        key: jax.Array, params: Params, *, masks: Masks | None = None, **extra_args: Any
    ) -> TopologyState:
        del extra_args
        if masks is not None:
            return start(given_masks(params, masks))
        if density == 1:
            return start(dense_masks(params, filter_fn))
        return start(init_masks(key, params, density, distribution, filter_fn, axes_fn))

    return init


def update_steps(
    update_every: int, *, start: int = 0, stop: int | None = None
) -> Callable[[Any], Any]:
    """Return `step -> bool`, which steps carry an update; see `every`."""
    check_count(update_every, "update_every")
    return every(update_every, start=start, stop=stop)


def fixed(init: TopologyInitFn, density: float, axes_fn: AxesFn | None = None) -> TopologyTransform:
    """Return a method whose masks never move after `init`; `axes_fn` is for explorations."""

    def keep_masks(
        key: jax.Array,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Scalar,
        *,
        drop_fraction: Scalar | None = None,
    ) -> TopologyState:
        del key, grads, params, step, drop_fraction
        return state

    return TopologyTransform(
        init,
        keep_masks,
        due=lambda step: step < 0,
        drop_fraction=constant_fraction(0.0),
        grows=False,
        density_at=lambda step: density,
        dense_gradient="never",
        axes_fn=axes_fn,
    )


MoveFn = Callable[[jax.Array, Params, TopologyState, Params, Scalar, Scalar, Stacks], TopologyState]
"""`(key, grads, state, params, step, rate, stacks) -> state`, moving the share `rate`.

`stacks` says which leaves hold several layers."""


def periodic(
    density: float,
    move: MoveFn,
    *,
    dense_gradient: str,
    first_extra: Callable[[Params, Masks], PyTree] | None = None,
    observe: Callable[[Params, TopologyState], TopologyState] | None = None,
    initial_density: float | None = None,
    density_at: Schedule | None = None,
    drop_fraction: float | Schedule = 0.3,
    update_every: int = 1000,
    stop: int | None = None,
    distribution: str = "erk",
    filter_fn: LeafFilter | None = None,
    axes_fn: AxesFn | None = None,
) -> TopologyTransform:
    """Return a method that starts from random masks and moves weights every so many steps.

    Args:
      density: share of kept weights over all maskable ones.
      move: the update.
      dense_gradient: see `TopologyTransform`.
      first_extra: `(params, masks) -> extra` at step 0, for a method with state of its own.
      observe: see `TopologyTransform`.
      initial_density: density of the first masks, if it is another one.
      density_at: `step -> density`, if it is no constant.
      drop_fraction: see `Shared`, as all that follow.
      update_every: "
      stop: "
      distribution: "
      filter_fn: "
      axes_fn: "
    """
    check_density(density)
    fraction = drop_fraction if callable(drop_fraction) else constant_fraction(drop_fraction)
    begin = density if initial_density is None else initial_density
    draw = random_start(begin, distribution, filter_fn, axes_fn)

    def init(key: jax.Array, params: Params, **extra_args: Any) -> TopologyState:
        state = draw(key, params, **extra_args)
        if first_extra is None:
            return state
        return state._replace(extra=first_extra(params, state.masks))

    def update(
        key: jax.Array,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Scalar,
        *,
        drop_fraction: Scalar | None = None,
    ) -> TopologyState:
        rate = fraction(step) if drop_fraction is None else drop_fraction
        return move(key, grads, state, params, step, rate, stack_axes(params, axes_fn))

    return TopologyTransform(
        init,
        update,
        due=update_steps(update_every, stop=stop),
        drop_fraction=fraction,
        grows=True,
        density_at=(lambda step: density) if density_at is None else density_at,
        dense_gradient=dense_gradient,
        observe=observe,
        axes_fn=axes_fn,
    )


ScoreFn = Callable[[jax.Array, Params, Params, Masks], PyTree]
"""`(key, params, grads, masks) -> tree of scores`, `None` on dense leaves."""


def dynamic(
    density: float, *, drop_scores: ScoreFn, grow_scores: ScoreFn, **further: Any
) -> TopologyTransform:
    """Bind the prune-and-grow engine to the two scores that make a method.

    Args:
      density: share of kept weights over all maskable ones.
      drop_scores: the smallest among active weights are dropped.
      grow_scores: the largest among inactive places are grown.
      **further: see `periodic`.
    """

    def move(
        key: jax.Array,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Scalar,
        rate: Scalar,
        stacks: Stacks,
    ) -> TopologyState:
        del step
        drop = drop_scores(key, params, grads, state.masks)
        grow = grow_scores(key, params, grads, state.masks)
        return advance(state, prune_and_grow(state.masks, drop, grow, rate, stacks))

    return periodic(density, move, **further)
