"""Sup-tickets as an optax transformation: both phases, tickets and superposition in one state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from supjax.checks import check_count, check_fraction, check_trainer
from supjax.exploring import exploring
from supjax.masks import apply_masks
from supjax.placement import beside, placed_like
from supjax.schedules import CyclePlan
from supjax.sparsify import (
    Collector,
    arrays_of,
    current_masks,
    sparse_transformation,
    sparsify_states,
)
from supjax.superposition import make_superposition
from supjax.trees import map_named, named_leaves
from supjax.types import (
    Masks,
    Params,
    PyTree,
    Scalar,
    Schedule,
    Superposition,
    SuperpositionState,
    Ticket,
    TopologyState,
    TopologyTransform,
)


class Collected(NamedTuple):
    """The running superposition inside the state of `sup_tickets`.

    Attributes:
      members: how many networks it holds, shape (), int32; the rest is zero before the first.
      state: the rule's own state. A `SuperpositionState` has the masks of the rule's result.
      result: the rule's result, `()` where the state is a `SuperpositionState`, whose ticket it is.

    >>> Collected._fields
    ('members', 'state', 'result')
    """

    members: jax.Array
    state: PyTree
    result: Ticket | tuple[()]


class CycleExtra(NamedTuple):
    """What a method on the timetable remembers where the explored share is in the state.

    Attributes:
      exploration: share of active weights that the next cycle explores, shape (), float32.
      extra: the method's own state.

    >>> CycleExtra._fields
    ('exploration', 'extra')
    """

    exploration: jax.Array
    extra: PyTree


def with_cycles(
    topology: TopologyTransform,
    plan: CyclePlan,
    exploration: float | Schedule = 0.1,
    *,
    exploration_in_state: bool = False,
) -> TopologyTransform:
    """Put a method on the timetable of Sup-tickets: the masks' part of the method alone.

    Periodic updates belong to the normal phase only; the first step of every cycle explores,
    that is moves the share `exploration` of the weights by the method's own rules, or by RigL's
    where the method has no grow rule (`supjax.topologies.exploring`).

    Args:
      topology: a method.
      plan: the steps of both phases; without cycles the normal phase is all that is left.
      exploration: share of active weights, in [0, 1], or a schedule `step -> share`. What is grown
        must be trained before the ticket is taken: 0.1 suits cycles from some 80 steps on, the
        paper's 0.5 cycles of thousands (its CIFAR runs have 3,120).
      exploration_in_state: whether `exploration`, a number, is only the first value of the share.
        It then stands in the state, as `exploration` of a `CycleExtra`, and `optax.tree.set(state,
        exploration=...)` sets it for the cycles to come; `drop_fraction` goes on telling the first.

    Returns:
      The method with other values of `due` and `drop_fraction`, which its `update` follows.

    Raises:
      ValueError: if `exploration` or a number of the plan is out of range, or a schedule is to be
        in the state.
      TypeError: if `topology` is no method or `plan` no `CyclePlan`.

    Source: Yin et al., *Superposing Many Tickets into One*, UAI 2022, section 3.

    >>> import supjax
    >>> plan = CyclePlan(normal_steps=4, cycle_steps=3, num_cycles=2)
    >>> method = with_cycles(supjax.make_topology("rigl", density=0.1, update_every=2), plan)
    >>> [step for step in range(12) if method.due(step)]
    [1, 3, 4, 7]
    >>> float(method.drop_fraction(1)), float(method.drop_fraction(4))
    (0.3, 0.1)
    """
    check_trainer(optax.identity(), topology)
    plan = check_plan(plan)
    if not callable(exploration):
        check_fraction(exploration, "exploration")
    host = topology if topology.grows else exploring(topology)

    def share(step: Any) -> Any:
        return exploration(step) if callable(exploration) else exploration

    def explores(step: Any) -> Any:
        return _in_cycles(plan, step) & ((step - plan.normal_steps) % plan.cycle_steps == 0)

    def due(step: Any) -> Any:
        return (step < plan.normal_steps) & host.due(step) | explores(step)

    def drop_fraction(step: Any) -> Any:
        if not isinstance(step, jax.Array):
            return share(step) if explores(step) else host.drop_fraction(step)
        return jnp.where(explores(step), share(step), host.drop_fraction(step))

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
        return host.update(key, grads, state, params, step, drop_fraction=rate)

    fraction = drop_fraction
    timed = host._replace(update=update, due=due, drop_fraction=drop_fraction)
    if not exploration_in_state:
        return timed
    if callable(exploration):
        raise ValueError("exploration must be a number to be in the state, got a schedule")
    return _with_share_in_state(timed, exploration, explores)


def _with_share_in_state(
    method: TopologyTransform, first: float, explores: Callable[[Any], Any]
) -> TopologyTransform:
    """Return a method whose explorations move the share that its state names."""

    def wrapped(state: TopologyState, share: jax.Array) -> TopologyState:
        return state._replace(extra=CycleExtra(share, state.extra))

    def own(state: TopologyState) -> TopologyState:
        return state._replace(extra=state.extra.extra)

    def init(key: jax.Array, params: Params, **options: Any) -> TopologyState:
        return wrapped(method.init(key, params, **options), jnp.asarray(first, jnp.float32))

    def update(
        key: jax.Array,
        grads: Params,
        state: TopologyState,
        params: Params,
        step: Scalar,
        *,
        drop_fraction: Scalar | None = None,
    ) -> TopologyState:
        share = state.extra.exploration
        if drop_fraction is None:
            drop_fraction = jnp.where(explores(step), share, method.drop_fraction(step))
        moved = method.update(key, grads, own(state), params, step, drop_fraction=drop_fraction)
        return wrapped(moved, share)

    watch = method.observe
    if watch is None:
        return method._replace(init=init, update=update)

    def observe(grads: Params, state: TopologyState) -> TopologyState:
        return wrapped(watch(grads, own(state)), state.extra.exploration)

    return method._replace(init=init, update=update, observe=observe)


def check_plan(plan: Any) -> CyclePlan:
    """Return a plan whose numbers are in range; raise a one-line error otherwise.

    >>> check_plan((90, 5, 2))
    Traceback (most recent call last):
      ...
    TypeError: plan must be a CyclePlan, got tuple
    """
    if not isinstance(plan, CyclePlan):
        raise TypeError(f"plan must be a CyclePlan, got {type(plan).__name__}")
    check_count(plan.normal_steps, "plan.normal_steps", least=0)
    check_count(plan.num_cycles, "plan.num_cycles", least=0)
    check_count(plan.cycle_steps, "plan.cycle_steps", least=min(plan.num_cycles, 1))
    return plan if plan.cycle_steps else plan._replace(cycle_steps=1)


def _in_cycles(plan: CyclePlan, step: Any) -> Any:
    return (step >= plan.normal_steps) & (step < plan.total_steps)


def sup_tickets(
    tx: optax.GradientTransformation,
    topology: TopologyTransform,
    plan: CyclePlan,
    key: jax.Array,
    *,
    exploration: float | Schedule = 0.1,
    exploration_in_state: bool = False,
    superposition: str | Superposition = "cia",
    include_pretrained: bool = True,
    masks: Masks | Ticket | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that it runs the whole method of Sup-tickets: `sparsify` with cycles.

    The masks follow the timetable of `with_cycles`. The network after the last step of the normal
    phase and every ticket, the network after the last step of a cycle, are folded into a running
    superposition in the optimizer state, `avg_t = avg_{t-1} + (ticket_t - avg_{t-1}) / t` pruned
    back by magnitude; training itself goes on from the ticket. `superposed(opt_state, params)`
    returns it. All of it works under `jax.jit` and `jax.lax.scan`. Steps without an update or a
    ticket do what those of `sparsify` do; the state has one more copy of weights and masks.

    Give the optimizer a learning rate for both phases, such as `sup_tickets_schedule`. After
    `plan.total_steps` updates the superposition stays as it is. A network with batch norm needs
    statistics for the superposed weights: `recompute_batch_stats`.

    Args:
      tx: any optax optimizer.
      topology: the base method.
      plan: the steps of both phases, from `CyclePlan.from_steps` or `from_epochs`, counted in
        updates of this transformation.
      key: see `sparsify`.
      exploration: see `with_cycles`.
      exploration_in_state: see `with_cycles`; with the optimizer state in place of the method's.
        For cycles that adapt, with `supjax.adaptive`.
      superposition: a name in `supjax.superposition.SUPERPOSITIONS`, with its defaults, or a
        `Superposition`, from `make_superposition`.
      include_pretrained: whether the network at the end of the normal phase is the first member.
      masks: see `sparsify`.

    Returns:
      An optax transformation as that of `sparsify`; `sparse_params`, `take_ticket` and
      `check_sparse` work with its state.

    Raises:
      ValueError: if an argument is out of range or the plan has no cycle; by `update` and `init`
        as in `sparsify`.
      TypeError: if an argument is of another type; by `init`, if the rule's `fold` changes the
        structure of its state.

    Source: Yin et al., *Superposing Many Tickets into One*, UAI 2022, section 3.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> plan = supjax.CyclePlan(normal_steps=4, cycle_steps=2, num_cycles=2)
    >>> topology = supjax.make_topology("rigl", density=0.25, update_every=2)
    >>> tx = sup_tickets(optax.sgd(0.1), topology, plan, jax.random.key(0))
    >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 4))}
    >>> opt_state = tx.init(params)
    >>> params = supjax.sparse_params(params, opt_state)
    >>> for _ in range(plan.total_steps):
    ...     updates, opt_state = tx.update(params, opt_state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> supjax.count_active(superposed(opt_state, params).params)
    4
    """
    timetable = with_cycles(topology, plan, exploration, exploration_in_state=exploration_in_state)
    if plan.num_cycles == 0:
        raise ValueError(f"sup_tickets needs a plan with at least one cycle, got {plan}")
    rule = make_superposition(superposition) if isinstance(superposition, str) else superposition
    if not isinstance(rule, Superposition):
        raise TypeError(
            f"superposition must be a name or a Superposition, got {type(rule).__name__}"
        )

    def due(step: Any) -> Any:
        last = (step - plan.normal_steps + 1) % plan.cycle_steps == 0
        ticket = _in_cycles(plan, step) & last
        return ticket | (step == plan.normal_steps - 1) if include_pretrained else ticket

    return sparse_transformation(tx, timetable, key, masks, _collector(rule, due))


def _collector(rule: Superposition, due: Callable[[Any], Any]) -> Collector:
    """Return the collector that folds by a rule."""

    def entry(state: PyTree) -> tuple[PyTree, Ticket | tuple[()]]:
        """Return what is kept of a state, and of its result."""
        result = rule.result(state)
        if isinstance(state, SuperpositionState):
            masked = state.ticket._replace(masks=result.masks)
            return state._replace(ticket=masked), ()
        return state, result

    def first(ticket: Ticket) -> Collected:
        return Collected(jnp.ones((), jnp.int32), *entry(rule.init(ticket)))

    def further(collected: Collected, ticket: Ticket) -> Collected:
        return Collected(collected.members + 1, *entry(rule.fold(collected.state, ticket)))

    def init(params: Params, masks: Masks) -> Collected:
        ticket = Ticket(params, masks)
        empty = beside(jax.tree.map(jnp.zeros_like, first(ticket)), params)
        again: Any = jax.tree.structure(jax.eval_shape(further, empty, ticket))
        if again != jax.tree.structure(empty):
            raise TypeError("superposition must keep the structure of its state: its fold does not")
        return empty

    def fold(collected: Collected, params: Params, masks: Masks) -> Collected:
        def with_dtypes(new: Collected) -> Collected:
            typed = jax.tree.map(lambda old, leaf: jnp.asarray(leaf, old.dtype), collected, new)
            return placed_like(typed, collected)

        ticket = Ticket(params, masks)
        return jax.lax.cond(
            collected.members == 0,
            lambda: with_dtypes(first(ticket)),
            lambda: with_dtypes(further(collected, ticket)),
        )

    return Collector(init, due, fold)


def superposed(opt_state: Any, params: Params) -> Ticket:
    """Return the superposition so far that an optimizer state of `sup_tickets` holds.

    Args:
      opt_state: state of a `sup_tickets` optimizer, possibly wrapped by other transformations or
        in `nnx.Optimizer`. Where it holds several, the result has the weights of all of them.
      params: the current weights, for their structure. Weights that belong to no `sup_tickets`
        (of another group, with `optax.multi_transform`) are taken from here; leaves that are no
        arrays become None.

    Returns:
      The ticket, on the nodes of the params, without batch-norm statistics. All arrays are copies.

    Raises:
      ValueError: if the state holds no superposition, or none has a member yet (unless traced,
        when weights are zero then), or paths differ.

    >>> superposed(optax.sgd(0.1).init({}), {})
    Traceback (most recent call last):
      ...
    ValueError: the optimizer state holds no SparsifyState: wrap the optimizer with sparsify
    """
    params = arrays_of(params)
    states = sparsify_states(opt_state)
    masks = named_leaves(current_masks(params, opt_state), "masks")
    weights: dict[str, Any] = {}
    collections = [state.superposition for state in states if state.superposition != ()]
    if not collections:
        raise ValueError(
            "the optimizer state holds no superposition: wrap the optimizer with sup_tickets"
        )
    for collected in collections:
        members = jax.tree.leaves(collected.members)[0]
        if not isinstance(members, jax.core.Tracer) and not members.any():
            raise ValueError(
                "the superposition has no member yet: the first is the network at the end of the "
                "normal phase, or without include_pretrained of the first cycle"
            )
        ticket = collected.result if collected.result != () else collected.state.ticket
        weights |= named_leaves(ticket.params, "superposition")
        folded = named_leaves(ticket.masks, "masks").items()
        masks |= {name: mask for name, mask in folded if mask is not None}  # None: frozen or dense

    def on_params(leaves: dict[str, Any]) -> PyTree:
        return map_named(lambda name, leaf: leaves.get(name, leaf), params)

    flags = on_params(masks)
    ticket = Ticket(apply_masks(on_params(weights), flags), flags)
    return jax.tree.map(jnp.copy, ticket)
