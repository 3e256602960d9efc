"""Names for the trees that travel through the library, and the shape of a topology method."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

PyTree = Any
"""Any pytree of arrays."""

Params = Any
"""A pytree of floating-point weights: nested dicts as linen gives them, or any other pytree."""

Masks = Any
"""The tree of the params with a `bool` leaf for every sparse weight and `None` for a dense one."""

Scalar = jax.Array | float | int
"""A Python number or an array of shape `()`."""

Schedule = Callable[[Any], Any]
"""A function `step -> value`, as in optax; `step` counts from 0 and may be traced."""

LeafFilter = Callable[[str, Any], bool]
"""A function `(path, leaf) -> is this weight sparse?`; paths look like `conv1/kernel`."""


class Axes(NamedTuple):
    """What the axes of a weight mean; those named nowhere are dimensions of their own.

    Attributes:
      stack: every index along them is a layer of its own (`nn.scan`, `nn.vmap`, `jax.vmap`).
      inputs: axes that together are one dimension, that of a matrix's inputs.
      outputs: axes that together are the other one.

    >>> Axes(stack=(0,), inputs=(1,), outputs=(2, 3))  # queries of stacked attention layers
    Axes(stack=(0,), inputs=(1,), outputs=(2, 3))
    """

    stack: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


AxesFn = Callable[[str, Any], Axes | None]
"""A function `(path, leaf) -> what its axes mean`; None leaves the answer to the default."""


class Ticket(NamedTuple):
    """One sparse network: what a cycle of sparse training yields, and what superposition returns.

    Attributes:
      params: the weights; every weight outside its mask is exactly zero.
      masks: the params' tree with `bool` leaves, `None` where the leaf is dense.
      batch_stats: running statistics of batch norm (linen's collection), or an empty dict.

    >>> import jax.numpy as jnp
    >>> Ticket({"kernel": jnp.zeros((2, 3))}, {"kernel": jnp.zeros((2, 3), bool)}).batch_stats
    {}
    """

    params: Params
    masks: Masks
    batch_stats: PyTree = {}  # noqa: RUF012  (never mutated: trees are values)


class TopologyState(NamedTuple):
    """What a sparse-training method carries from step to step; arrays only.

    Attributes:
      masks: the current masks (see `Ticket.masks`).
      ever_active: masks of the weights that have been active at least once, for the
        in-time over-parameterization rate R_s (Liu et al., ICML 2021, section 3).
      extra: the method's own state, `()` for most methods.

    >>> import jax.numpy as jnp
    >>> masks = {"kernel": jnp.ones((2, 3), bool), "bias": None}
    >>> TopologyState(masks, ever_active=masks).extra
    ()
    """

    masks: Masks
    ever_active: Masks
    extra: PyTree = ()


class TopologyInitFn(Protocol):
    """Draws or computes the first masks."""

    def __call__(
        self,
        key: jax.Array,
        params: Params,
        *,
        masks: Masks | None = None,
        loss_fn: Callable[[Params], jax.Array] | None = None,
        output_fn: Callable[[Params], jax.Array] | None = None,
    ) -> TopologyState:
        """Return the state at step 0; the key is consumed.

        Args:
          key: typed PRNG key.
          params: the initial, still dense weights.
          masks: masks to go on with instead of new ones.
          loss_fn: `params -> scalar loss` on data; SNIP and GraSP need it.
          output_fn: `params -> outputs` for an all-ones input; SynFlow needs it.
        """
        ...


class TopologyUpdateFn(Protocol):
    """Moves the masks once."""

    def __call__(
        self,
        key: jax.Array,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Scalar,
        *,
        drop_fraction: Scalar | None = None,
    ) -> TopologyState:
        """Return the state after one topology update; the key is consumed.

        Args:
          key: typed PRNG key, the same on all devices.
          grads: dense gradient of the current mini-batch, without weight decay.
          state: the state before.
          params: the current (masked) weights.
          step: index of the current training step, from 0; may be traced.
          drop_fraction: share of active weights to drop in every layer; overrides the method's
            own schedule (a cycle's exploration passes its p here). May be traced.
        """
        ...


class TopologyTransform(NamedTuple):
    """A sparse-training method: pure functions, and the facts about it that others ask for.

    Attributes:
      init: see `TopologyInitFn`.
      update: see `TopologyUpdateFn`; the caller applies the new masks to weights and momentum.
      due: `step -> bool`, whether a periodic update belongs to this step; works on ints and
        on traced integers.
      drop_fraction: `step -> share` of active weights that a periodic update moves.
      grows: whether `update` has a grow rule of its own. A method without one explores by RigL's
        rule at the start of a cycle (`supjax.topologies.exploring`).
      density_at: `step -> density`: a constant, or the ramp of a method that prunes as it trains.
      dense_gradient: when the method needs the gradient of absent weights too, which is what
        training costs beyond the sparse network: "never", "updates" or "always" (at every step).
      observe: `(grads, state) -> state`, run at every training step, or None for the methods
        that need no memory of past gradients (all but SNFS).
      axes_fn: what the axes of the weights mean, where the defaults do not say it; see `Axes`.

    >>> import supjax
    >>> method = supjax.make_topology("rigl", density=0.1, drop_fraction=0.3, update_every=100)
    >>> method.due(99), method.due(100), method.drop_fraction(99), method.observe
    (True, False, 0.3, None)
    >>> method.grows, method.density_at(99), method.dense_gradient
    (True, 0.1, 'updates')
    """

    init: TopologyInitFn
    update: TopologyUpdateFn
    due: Callable[[Any], Any]
    drop_fraction: Schedule
    grows: bool
    density_at: Schedule
    dense_gradient: str
    observe: Callable[[Params, TopologyState], TopologyState] | None = None
    axes_fn: AxesFn | None = None


class SuperpositionState(NamedTuple):
    """What a superposition carries from fold to fold; arrays only, and no ticket twice.

    Attributes:
      ticket: the superposition so far.
      members: how many tickets it holds, shape ().
      weight: their total weight, shape (); the number of members where all weigh the same.
      extra: the rule's own state, `()` for most.

    >>> import jax.numpy as jnp
    >>> SuperpositionState(Ticket({"w": jnp.ones(1)}, {"w": None}), members=1, weight=1.0).extra
    ()
    """

    ticket: Ticket
    members: Scalar
    weight: Scalar
    extra: PyTree = ()


class Superposition(NamedTuple):
    """A rule that turns a stream of tickets into one network, as a bundle of pure functions.

    Attributes:
      init: `(ticket) -> state` that holds the first member.
      fold: `(state, ticket) -> state` with one more member; jit-able, and with one ticket's worth
        of memory beside the state, however many are folded.
      result: `(state) -> Ticket`, the superposed network.
      weighted: whether `init` and `fold` take a further argument `weight`, a positive number.

    >>> import jax.numpy as jnp
    >>> import supjax
    >>> rule = supjax.make_superposition("cia")
    >>> make = lambda *w: Ticket({"w": jnp.array([w])}, {"w": jnp.array([w]) != 0})
    >>> state = rule.fold(rule.init(make(4.0, 2.0, 0.0)), make(2.0, 0.0, 3.0))
    >>> rule.result(state).params["w"]
    Array([[3. , 0. , 1.5]], dtype=float32)
    """

    init: Callable[..., Any]
    fold: Callable[..., Any]
    result: Callable[[Any], Ticket]
    weighted: bool = False
