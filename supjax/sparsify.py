"""Sparse training inside somebody else's optax loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from supjax.bits import pack_masks, unpack_masks
from supjax.checks import check_key, check_trainer
from supjax.dataflow import trained_weights
from supjax.frozen import Names, frozen_leaves, trained_only, without_frozen
from supjax.masked_update import divided_entries, masked_update, start_grown, with_masks
from supjax.masks import apply_masks, check_masks, count_true, given_masks
from supjax.placement import beside, placed_like
from supjax.trees import map_named, named_leaves, rehang
from supjax.types import Masks, Params, PyTree, Ticket, TopologyState, TopologyTransform


class _Fields(NamedTuple):
    """The leaves of a `SparsifyState`."""

    inner: PyTree
    bits: PyTree
    ever_active: Masks
    extra: PyTree
    step: jax.Array
    key: jax.Array
    superposition: PyTree = ()


class SparsifyState(_Fields):
    """State of `sparsify` and of `sup_tickets`; arrays of numbers only, so it can go anywhere.

    Masks are in it once, as bits. `state.topology` reads them, and `state._replace(topology=...)`
    sets them.

    Attributes:
      inner: the wrapped optimizer's state.
      bits: the current masks at one bit a weight (see `supjax.bits`).
      ever_active: see `TopologyState`.
      extra: the method's own state.
      step: updates so far, shape (), int32.
      key: the data of a typed key, uint32.
      superposition: of `sup_tickets`, the networks folded so far; `()` in `sparsify`.

    >>> SparsifyState._fields
    ('inner', 'bits', 'ever_active', 'extra', 'step', 'key', 'superposition')
    """

    __slots__ = ()

    @property
    def topology(self) -> TopologyState:
        """The method's state, with the current masks as `bool` leaves."""
        masks = unpack_masks(self.ever_active, self.bits)
        return TopologyState(masks, self.ever_active, self.extra)

    def _replace(self, **changes: Any) -> "SparsifyState":
        if "topology" in changes:
            topology: TopologyState = changes.pop("topology")
            like = self.ever_active
            masks, ever_active = (rehang(tree, like, ("masks", "state")) for tree in topology[:2])
            check_masks(ever_active, masks, "ever_active")
            changes = {
                "bits": pack_masks(masks),
                "ever_active": ever_active,
                "extra": topology.extra,
                **changes,
            }
        return super()._replace(**changes)


class Collector(NamedTuple):
    """What `sup_tickets` adds to `sparsify`: networks that are folded into a tree on some steps.

    Attributes:
      init: `(params, masks) -> tree` before the first; the masks of frozen leaves are None, so
        that no pruning of the tree touches what the optimizer never trains.
      due: `step -> bool`, whether the network after this step is one.
      fold: `(tree, params, masks) -> tree` with one more.
    """

    init: Callable[[Params, Masks], PyTree]
    due: Callable[[Any], Any]
    fold: Callable[[PyTree, Params, Masks], PyTree]


NOTHING = Collector(lambda params, masks: (), lambda step: step < 0, lambda tree, params, masks: ())
"""The collector of `sparsify`."""


def sparsify(
    tx: optax.GradientTransformation,
    topology: TopologyTransform,
    key: jax.Array,
    *,
    masks: Masks | Ticket | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that it trains a sparse network: two added lines in an optax loop.

    Every update masks the gradient, runs the optimizer, and keeps absent weights at exactly
    zero: `p' = (p + u) * m`. On the steps for which `topology.due` holds, the masks move right
    after the weight update, by the gradient of that step, and the optimizer's per-weight state
    follows. Selection runs on those steps only. Start from masked weights with `sparse_params`.

    The updates bring absent weights to zero, so nothing may change them afterwards: wrap the whole
    optimizer, `sparsify(optax.chain(...), ...)`; `check_sparse` finds what leaks.
    `optax.MultiSteps` and `optax.apply_if_finite` may stand on either side; outside, they hand
    over mean gradients, or skip whole updates. `optax.masked` and `optax.multi_transform` around
    it give groups of weights methods of their own. `optax.lookahead` belongs inside.

    What `tx` never trains (`optax.set_to_zero`, `optax.transforms.freeze`) is neither dropped nor
    grown: it stays dense, or keeps the masks that it is given, and the method's density is that
    of the rest (see `supjax.frozen`). A warning says where that cannot be found out.

    Args:
      tx: any optax optimizer.
      topology: a method, from `make_topology` or `supjax.topologies`.
      key: typed PRNG key for first masks and random growth. The masks and every growth are those
        of `create_train_state` and `make_topology_step` with the same key.
      masks: masks, or a `Ticket` with some, to go on with instead of drawing new ones; a tree of
        any nodes with the paths of the params.

    Returns:
      An optax transformation. `update` needs `params`; further keyword arguments reach `tx`.
      Trees of gradients and params need the same paths as those of `init`, not the same nodes.

    Raises:
      ValueError: by `update`, if it gets no params; by `init`, if masks do not fit the params.
      TypeError: if `key` is not a typed key, `tx` no optimizer or `topology` no method.

    Source: the masking rules of METHOD section 2 (docs/architecture.md).

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> topology = supjax.make_topology("rigl", density=0.5, update_every=10)
    >>> tx = sparsify(optax.adam(1e-3), topology, jax.random.key(0))
    >>> params = {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    >>> opt_state = tx.init(params)
    >>> params = sparse_params(params, opt_state)
    >>> updates, opt_state = tx.update(params, opt_state, params)
    >>> supjax.density(optax.apply_updates(params, updates))
    0.5
    """
    return sparse_transformation(tx, topology, key, masks, NOTHING)


def sparse_transformation(
    tx: optax.GradientTransformation,
    topology: TopologyTransform,
    key: jax.Array,
    masks: Masks | Ticket | None,
    collector: Collector,
) -> optax.GradientTransformationExtraArgs:
    """Return `sparsify` with a collector; the other arguments and errors are those of `sparsify`.

    What happens on some steps only stands in one loop of no turn or one (`_in_place_if`), which
    recomputes the weights after the step from what an ordinary step reads anyway. So an ordinary
    step is one fused pass over the weights. It applies `bits before & bits after`: weights that
    this step drops or grows end at zero.
    """
    check_trainer(tx, topology)
    impl = jax.random.key_impl(check_key(key))
    tx = optax.with_extra_args_support(tx)
    methods: dict[Any, tuple[TopologyTransform, Names, list[bool]]] = {}

    def method_for(params: Params) -> tuple[TopologyTransform, Names, list[bool]]:
        """Return the method for what is trained, the names of the rest, and `divided_entries`."""
        leaves = named_leaves(params, "params")
        shapes = tuple((name, getattr(leaf, "shape", None)) for name, leaf in leaves.items())
        if shapes not in methods:
            frozen = frozen_leaves(tx, params)
            divided = divided_entries(tx, params)
            methods[shapes] = without_frozen(topology, frozen), frozen, divided
        return methods[shapes]

    def init_fn(params: Params) -> SparsifyState:
        first, rest = jax.random.split(key)
        weights = trained_weights(params)
        given = {} if masks is None else {"masks": given_masks(weights, masks)}
        method, frozen, _ = method_for(params)
        state = beside(method.init(first, weights, **given), weights)
        start = apply_masks(params, with_masks(params, state.masks))
        return SparsifyState(
            inner=tx.init(start),
            bits=pack_masks(state.masks),
            ever_active=state.ever_active,
            extra=state.extra,
            step=jnp.zeros((), jnp.int32),
            key=jax.random.key_data(rest),
            superposition=collector.init(network(start), trained_only(state.masks, frozen)),
        )

    def update_fn(
        updates: Params, state: SparsifyState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Params, SparsifyState]:
        if params is None:
            raise ValueError("sparsify needs the weights: call update(grads, state, params)")
        given, (method, frozen, divided) = params, method_for(params)
        grads = rehang(updates, state.ever_active, ("gradients", "masks"))
        params = _on_nodes(params, state.ever_active)
        if method.observe is not None:
            state = state._replace(extra=method.observe(grads, state.topology).extra)

        def step_with(bits: PyTree) -> tuple[Params, PyTree]:
            flags = unpack_masks(state.ever_active, bits)
            return masked_update(tx, grads, state.inner, params, flags, **extra_args)

        def move(before: SparsifyState) -> SparsifyState:
            moved = optax.apply_updates(params, step_with(before.bits)[0])
            typed = jax.random.wrap_key_data(state.key, impl=impl)
            own = jax.random.fold_in(jax.random.fold_in(typed, state.step), 1)
            return before._replace(
                topology=method.update(
                    own, grads, before.topology, trained_weights(moved), state.step
                )
            )

        def collect(after: SparsifyState) -> SparsifyState:
            moved = optax.apply_updates(params, step_with(_both(state.bits, after.bits))[0])
            masks = trained_only(after.topology.masks, frozen)
            folded = collector.fold(after.superposition, network(moved), masks)
            return after._replace(superposition=folded)

        def rarely(carry: SparsifyState) -> SparsifyState:
            carry = _if(due, move, carry)
            if collector is NOTHING:
                return carry
            return _if(collected, collect, carry)

        due = jnp.asarray(method.due(state.step))
        collected = jnp.asarray(collector.due(state.step))
        carried = state._replace(inner=(), step=(), key=())
        after = _in_place_if(due | collected, rarely, carried)
        both = _both(state.bits, after.bits)
        steps, inner = step_with(both)
        kept = unpack_masks(state.ever_active, both)
        inner = start_grown(tx, inner, params, kept, after.topology.masks, divided)
        after = after._replace(inner=inner, step=state.step + 1, key=state.key)
        return _on_nodes(steps, given), after

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _in_place_if(predicate: jax.Array, f: Callable[[PyTree], PyTree], carry: PyTree) -> PyTree:
    """Return `f(carry)` if the predicate holds and the carry as it is otherwise.

    A loop of one turn or none. `jax.lax.cond` copies whatever its untaken branch passes on, which
    costs more than the optimizer's step; a loop leaves its carry where it is. Outside a compiled
    function there is nothing to compile for it.
    """
    concrete = not isinstance(predicate, jax.core.Tracer)
    if concrete:
        return _if(predicate, f, carry)

    def turn(state: tuple[jax.Array, PyTree]) -> tuple[jax.Array, PyTree]:
        return jnp.zeros_like(state[0]), placed_like(f(state[1]), state[1])

    after = jax.lax.while_loop(lambda state: state[0], turn, (predicate, carry))[1]
    return placed_like(after, carry)


def _if(predicate: jax.Array, f: Callable[[PyTree], PyTree], carry: PyTree) -> PyTree:
    """Return `f(carry)` if the predicate holds and the carry as it is otherwise."""
    if isinstance(predicate, jax.core.Tracer):
        return jax.lax.cond(
            predicate, lambda old: placed_like(f(old), old), lambda untouched: untouched, carry
        )
    return f(carry) if predicate else carry


def _both(first: PyTree, second: PyTree) -> PyTree:
    return jax.tree.map(jnp.bitwise_and, first, second)


def _on_nodes(tree: Params, like: PyTree) -> Params:
    """Return weights, or the two kinds of `optax.LookaheadParams`, on the nodes of a tree."""
    if not isinstance(tree, optax.LookaheadParams):
        return rehang(tree, like, ("params", "masks"))
    fast, slow = like if isinstance(like, optax.LookaheadParams) else (like, like)
    return optax.LookaheadParams(_on_nodes(tree.fast, fast), _on_nodes(tree.slow, slow))


def network(params: Params) -> Params:
    """Return the weights of the network: the slow ones of `optax.LookaheadParams`."""
    return params.slow if isinstance(params, optax.LookaheadParams) else params


def arrays_of(params: Params) -> Params:
    """Return the network's arrays, None for other leaves, such as activations of Equinox."""
    return map_named(lambda name, leaf: leaf if hasattr(leaf, "dtype") else None, network(params))


def sparse_params(params: Params, opt_state: Any) -> Params:
    """Return the weights masked by the masks inside an optimizer state that holds `sparsify`'s.

    Args:
      params: the dense initial weights, a tree of any nodes with the paths that `init` saw.
      opt_state: state of a `sparsify` optimizer, possibly wrapped by other transformations or
        in `nnx.Optimizer`. Where it holds several, each masks its own weights.

    Returns:
      The masked weights, to train from.

    Raises:
      ValueError: if the state holds no `SparsifyState`, or paths differ (one is named).

    >>> sparse_params({}, optax.sgd(0.1).init({}))
    Traceback (most recent call last):
      ...
    ValueError: the optimizer state holds no SparsifyState: wrap the optimizer with sparsify
    """
    masks = current_masks(trained_weights(params), opt_state)
    return apply_masks(params, with_masks(params, masks))


def take_ticket(params: Params, opt_state: Any, batch_stats: PyTree | None = None) -> Ticket:
    """Return the current network as a ticket, with the masks inside the optimizer state.

    Masks are not read off the weights, so weights that were grown by the last update, and still
    are zero, stay in the ticket. All arrays are copies, safe from donation.

    Args:
      params: the current weights, see `sparse_params`; of `optax.LookaheadParams` the slow ones.
        Leaves that are no arrays, as a whole Equinox module has, become None.
      opt_state: see `sparse_params`.
      batch_stats: running statistics of batch norm, if the network has some.

    Returns:
      The ticket, on the nodes of the params.

    Raises:
      ValueError: as `sparse_params`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> topology = supjax.make_topology("static", density=0.5)
    >>> tx, params = sparsify(optax.sgd(0.1), topology, jax.random.key(0)), {"w": jnp.zeros((2, 4))}
    >>> supjax.count_active(take_ticket(params, tx.init(params)).masks)
    4
    """
    params = arrays_of(params)
    masks = current_masks(params, opt_state)
    ticket = Ticket(apply_masks(params, masks), masks, {} if batch_stats is None else batch_stats)
    return jax.tree.map(jnp.copy, ticket)


def check_sparse(params: Params, opt_state: Any) -> None:
    """Raise a one-line `ValueError` if weights outside the masks are not exactly zero.

    A transformation that is chained *after* `sparsify` can bring weights back; so can a change of
    the weights by hand. One pass over the weights: cheap enough for every step while debugging.

    Args:
      params: the current weights, outside of a compiled function.
      opt_state: see `sparse_params`.

    Raises:
      ValueError: naming a path, and the number of such weights there; also under a trace, where
        no values are known, and as `sparse_params`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> topology = supjax.make_topology("static", density=0.5)
    >>> tx, params = sparsify(optax.sgd(0.1), topology, jax.random.key(0)), {"w": jnp.ones((2, 4))}
    >>> check_sparse(params, tx.init(params))
    Traceback (most recent call last):
      ...
    ValueError: 4 weights outside the masks are not zero at 'w'; wrap the whole optimizer
    """
    masks = with_masks(params, current_masks(trained_weights(params), opt_state))
    flags = named_leaves(masks, "masks")
    pairs = {
        name: (leaf, flags[name])
        for name, leaf in named_leaves(params, "params").items()
        if flags[name] is not None
    }
    counts = _count_outside(pairs)
    if any(isinstance(count, jax.core.Tracer) for count in counts.values()):
        raise ValueError("check_sparse needs concrete weights: call it outside jit, grad and scan")
    for name, count in jax.device_get(counts).items():
        if count:
            raise ValueError(
                f"{count} weights outside the masks are not zero at {name!r}; "
                "wrap the whole optimizer"
            )


@jax.jit
def _count_outside(pairs: dict[str, tuple[jax.Array, jax.Array]]) -> dict[str, jax.Array]:
    return {name: count_true((leaf != 0) & ~mask) for name, (leaf, mask) in pairs.items()}


def sparsify_state(opt_state: Any) -> SparsifyState:
    """Return the `SparsifyState` inside an optimizer state, for its masks and step count.

    Args:
      opt_state: state of a `sparsify` optimizer, possibly wrapped by other transformations.

    Returns:
      The first `SparsifyState` found; `take_ticket` and `sparse_params` see all of them.

    Raises:
      ValueError: if the state holds none.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import supjax
    >>> topology = supjax.make_topology("static", density=0.5)
    >>> tx = sparsify(optax.sgd(0.1), topology, jax.random.key(0))
    >>> opt_state = optax.chain(optax.clip(1.0), tx).init({"w": jnp.ones((2, 4))})
    >>> supjax.density(sparsify_state(opt_state).topology.masks)
    0.5
    """
    return sparsify_states(opt_state)[0]


def sparsify_states(opt_state: Any) -> list[SparsifyState]:
    """Return every `SparsifyState` inside an optimizer state; raise if there is none."""
    opt_state = getattr(opt_state, "opt_state", opt_state)  # of nnx.Optimizer or a train state

    def is_ours(node: Any) -> bool:
        return isinstance(node, SparsifyState)

    found = [leaf for leaf in jax.tree.leaves(opt_state, is_leaf=is_ours) if is_ours(leaf)]
    if not found:
        raise ValueError(
            "the optimizer state holds no SparsifyState: wrap the optimizer with sparsify"
        )
    return found


def current_masks(params: Params, opt_state: Any) -> Masks:
    """Return the masks of all `SparsifyState`s on the nodes of the params."""
    found: dict[str, Any] = {}
    for state in sparsify_states(opt_state):
        for name, mask in named_leaves(state.topology.masks, "masks").items():
            if mask is not None and found.get(name) is not None:
                raise ValueError(f"two sparsify states hold a mask at {name!r}: wrap it once")
            found[name] = mask if mask is not None else found.get(name)
    missing = found.keys() - named_leaves(params, "params").keys()
    if missing:
        raise ValueError(f"params and masks differ: params have no leaf at {min(missing)!r}")
    return map_named(lambda name, leaf: found.get(name), params)
