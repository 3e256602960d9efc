"""What people hand over to `superpose`, as tickets of one network on one set of devices."""

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from supjax.allocation import budget
from supjax.masks import check_masks, count_active, count_maskable, count_true, nonzero_masks
from supjax.sparsify import SparsifyState
from supjax.ticket_io import load_ticket
from supjax.tickets import on_nodes_of, on_own_nodes
from supjax.trees import named_leaves, rehang
from supjax.types import LeafFilter, Masks, Params, PyTree, Ticket, TopologyState

WANTED = "pass a list of tickets, params or ticket files"

Array = jax.Array | np.ndarray | np.generic


class Member(NamedTuple):
    """One network that was handed over; `masks` is None where nobody has them."""

    name: str
    params: Params
    masks: Masks | None
    batch_stats: PyTree


def as_tickets(given: Any, filter_fn: LeafFilter | None, density: float | None) -> list[Ticket]:
    """Return a list of tickets, whatever form they came in, after checking that they agree.

    All have the nodes of the first params and lie on the devices of the first ticket.

    Args:
      given: see `supjax.superpose`.
      filter_fn: which leaves of plain params are sparse.
      density: the density that was asked for, to compare counts with.

    Raises:
      ValueError: if there is no ticket, or two of them differ (the path is named).
      TypeError: if something else was handed over.
    """
    members = [_member(name, node) for name, node in named_members(given)]
    if not members:
        raise ValueError("superpose needs at least one ticket, got none")
    for member in members:
        _check_weights(member)
    tickets: list[Ticket] = []
    for member, masks in zip(members, _masks_of_all(members, filter_fn), strict=True):
        check_masks(member.params, masks)
        if not jax.tree.leaves(masks):
            raise ValueError(f"{member.name} has no sparse weight to prune")
        ticket = Ticket(member.params, masks, member.batch_stats)
        tickets.append(
            on_nodes_of(tickets[0], ticket, member.name) if tickets else on_own_nodes(ticket)
        )
    tickets = _on_devices_of_the_first(tickets)
    if any(member.masks is None for member in members):
        _warn_of_lost_zeros(tickets, density)
    return tickets


def named_members(given: Any) -> list[tuple[str, Any]]:
    """Return what was handed over one by one, each with a name for errors.

    A dict may hold members or be one tree of stacked weights. It holds members if its values are
    tickets (or files, or training states), or if there are several and they are trees of the same
    paths and shapes. What could be read both ways is refused.
    """
    if isinstance(given, str | bytes | os.PathLike):
        raise TypeError(f"{WANTED}; got {type(given).__name__}")
    if _is_network(given):
        return _unstacked(_member("the stacked tickets", given))
    if isinstance(given, dict) and given:
        values = list(given.values())
        if any(_is_network(v) or isinstance(v, str | os.PathLike) for v in values):
            return [(f"ticket {key!r}", value) for key, value in given.items()]
        if _are_trees_alike(values):
            if _stack_length(given) is not None and _stacks_kernels(given):
                raise ValueError(
                    f"a dict of {len(values)} equal trees, all leaves of which have one leading "
                    "axis, may hold members or be stacked: pass list(members.values()), or a list"
                )
            return [(f"ticket {key!r}", value) for key, value in given.items()]
    is_collection = isinstance(given, list | tuple) and not hasattr(given, "_fields")
    is_stream = isinstance(given, Iterable) and jax.tree_util.all_leaves([given])
    if is_collection or (is_stream and not isinstance(given, Array)):
        return [(f"ticket {i}", node) for i, node in enumerate(given)]
    return _unstacked(Member("the stacked tickets", given, None, {}))


def _is_network(node: Any) -> bool:
    """Tell apart what holds weights beside other things: tickets and training states."""
    if isinstance(node, Mapping):
        return False
    return (
        isinstance(node, Ticket)
        or isinstance(getattr(node, "ticket", None), Ticket)
        or (hasattr(node, "params") and hasattr(node, "opt_state"))
    )


def _member(name: str, node: Any) -> Member:
    """Return one member, in whatever form it came."""
    if isinstance(node, Member):
        return node._replace(name=name)
    if isinstance(node, str | os.PathLike):
        node = load_ticket(node)
    if _is_network(node):
        ticket = node if isinstance(node, Ticket) else getattr(node, "ticket", None)
        if isinstance(ticket, Ticket):
            return Member(name, *ticket)
        masks = _masks_inside(node.opt_state, node.params)  # a training state of flax's kind
        return Member(name, node.params, masks, getattr(node, "batch_stats", {}))
    if _topology_states(node):
        raise TypeError(
            f"{name} is an optimizer state, which holds no weights: {WANTED}, "
            "such as Ticket(params, masks)"
        )
    return Member(name, node, None, {})


def _topology_states(tree: PyTree) -> list[TopologyState]:
    """Return the states of methods, those that `sparsify` keeps as bits included."""
    kinds = (TopologyState, SparsifyState)
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kinds))
    return [
        node.topology if isinstance(node, SparsifyState) else node
        for node in nodes
        if isinstance(node, kinds)
    ]


def _masks_inside(opt_state: PyTree, params: Params) -> Masks | None:
    """Return the masks that the methods inside an optimizer state have for the params."""
    found: dict[str, Any] = {}
    for state in _topology_states(opt_state):
        found.update({k: m for k, m in named_leaves(state.masks).items() if m is not None})
    if not found:
        return None
    return rehang({path: found.get(path) for path in named_leaves(params)}, params)


def _stack_length(tree: PyTree) -> int | None:
    """Return the length of the leading axis that all leaves have in common, if they have one."""
    lengths = {_leading(leaf) for leaf in jax.tree.leaves(tree)}
    return lengths.pop() if len(lengths) == 1 and None not in lengths else None


def _leading(leaf: Any) -> int | None:
    return leaf.shape[0] if isinstance(leaf, Array) and leaf.ndim else None


def _stacks_kernels(tree: PyTree) -> bool:
    """Say whether what is left of a leaf without its leading axis may be a kernel."""
    return any(leaf.ndim > 2 for leaf in jax.tree.leaves(tree))


def _are_trees_alike(values: list[Any]) -> bool:
    if len(values) < 2 or any(jax.tree_util.all_leaves([v]) or v is None for v in values):
        return False
    shapes = [{k: np.shape(leaf) for k, leaf in named_leaves(v).items()} for v in values]
    return all(other == shapes[0] for other in shapes)


def _unstacked(stack: Member) -> list[tuple[str, Any]]:
    """Return the members of a tree whose leaves are stacked along a leading axis."""
    trees = (stack.params, stack.masks, stack.batch_stats)
    for path, leaf in named_leaves(stack.params).items():
        if not isinstance(leaf, Array):
            at = f" at {path!r}" if path else ""
            raise TypeError(f"{WANTED}; got {type(leaf).__name__}{at}")
    leaves = jax.tree.leaves(trees)
    if not leaves:
        return []
    length = _stack_length(trees)
    if length is None:
        lengths = sorted({-1 if _leading(leaf) is None else leaf.shape[0] for leaf in leaves})
        shown = ["none" if n < 0 else n for n in lengths]
        raise ValueError(
            f"stacked tickets need one common leading axis in all leaves, got lengths {shown}"
        )
    parts = (jax.tree.map(lambda leaf, i=i: leaf[i], trees) for i in range(length))
    return [(f"ticket {i}", Member(stack.name, *part)) for i, part in enumerate(parts)]


def _check_weights(member: Member) -> None:
    """Raise a one-line `TypeError` unless all weights are floating-point arrays."""
    leaves = named_leaves(member.params)
    if len(leaves) == 1 and "" in leaves and not isinstance(leaves[""], Array):
        raise TypeError(f"{WANTED}; {member.name} is {type(leaves['']).__name__}")
    for path, leaf in leaves.items():
        if leaf is None:
            continue
        if not isinstance(leaf, Array):
            raise TypeError(f"params must be arrays, got {type(leaf).__name__} at {path!r}")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"tickets must hold floating-point weights, got {leaf.dtype} "
                f"at {path!r} of {member.name}"
            )


def _masks_of_all(members: list[Member], filter_fn: LeafFilter | None) -> list[Masks]:
    """Return every member's masks; read off the non-zeros where nobody has them.

    The sparse leaves of plain params are those of the tickets beside them, or of the filter; with
    neither, a leaf that is all non-zero in all members is left dense, unless every leaf is.
    """
    brought = next((m.masks for m in members if m.masks is not None), None)
    if filter_fn is None and brought is not None:
        sparse = {path for path, mask in named_leaves(brought).items() if mask is not None}
        return [_nonzeros_at(m.params, sparse) if m.masks is None else m.masks for m in members]
    read = [nonzero_masks(m.params, filter_fn) if m.masks is None else m.masks for m in members]
    if filter_fn is not None:
        return read
    flags = [named_leaves(masks) for masks in read]
    dense = set.intersection(*({k for k, m in f.items() if _is_full(m)} for f in flags))
    if all(mask is None or path in dense for path, mask in flags[0].items()):
        return read
    return [
        rehang({path: None if path in dense else mask for path, mask in f.items()}, masks)
        for f, masks in zip(flags, read, strict=True)
    ]


def _nonzeros_at(params: Params, paths: set[str]) -> Masks:
    leaves = named_leaves(params).items()
    return rehang({path: leaf != 0 if path in paths else None for path, leaf in leaves}, params)


def _is_full(mask: Any) -> bool:
    """Say whether a mask is known to be all true; under a trace nothing is known."""
    if mask is None or isinstance(mask, jax.core.Tracer) or not mask.size:
        return False
    return int(count_true(mask)) == mask.size


def _warn_of_lost_zeros(tickets: list[Ticket], density: float | None) -> None:
    """Warn where masks that were read off non-zeros do not have the counts that they should."""
    counts = [count_active(ticket.masks) for ticket in tickets]
    size = count_maskable(tickets[0].masks)
    wanted = counts[0] if density is None else budget(density, size)
    if isinstance(wanted, jax.core.Tracer) or not all(isinstance(c, int) for c in counts):
        return
    if set(counts) in ({wanted}, {size}):
        return
    asked = "" if density is None else f" where density={density} asks for {wanted}"
    warnings.warn(
        f"superpose reads masks off the non-zeros of plain params, and the members have {counts} "
        f"of {size}{asked}: weights just grown, which are still zero, would be lost; pass tickets, "
        "which carry their masks",
        UserWarning,
        stacklevel=4,
    )


def _on_devices_of_the_first(tickets: list[Ticket]) -> list[Ticket]:
    """Return the tickets as JAX arrays that one program can take together."""
    weights = jax.tree.leaves(tickets[0].params)
    anchor = max(weights, key=_count_of_devices)
    first = jax.tree.map(lambda leaf: _placed(leaf, anchor, alike=False), tickets[0])
    return [jax.tree.map(_placed, ticket, first) for ticket in tickets]


def _count_of_devices(leaf: Any) -> int:
    """Return on how many devices an array has been placed on purpose."""
    known = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    return len(leaf.sharding.device_set) if known and leaf.committed else 0


def _placed(leaf: Any, target: Any, *, alike: bool = True) -> Any:
    """Return an array as the target is placed; if it is not `alike`, on the same devices."""
    leaf, target = jnp.asarray(leaf), jnp.asarray(target)
    if isinstance(leaf, jax.core.Tracer) or isinstance(target, jax.core.Tracer):
        return leaf
    ours, wanted = leaf.sharding, target.sharding
    if ours == wanted or (not alike and ours.device_set == wanted.device_set):
        return leaf
    if not alike:
        wanted = _replicated(wanted)
    return jax.device_put(leaf, wanted)


def _replicated(sharding: Any) -> NamedSharding:
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    devices = sorted(sharding.device_set, key=lambda device: device.id)
    return NamedSharding(Mesh(np.array(devices), "all"), PartitionSpec())
