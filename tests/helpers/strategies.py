"""Random pytrees for property tests: weights nested in dicts, lists, dataclasses, nnx states...

Leaf shapes and their nests come from short catalogues, because every new one is a compilation; what
varies freely is which values they hold, and in `mixed` and `rewrapped` how leaves are nested.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import strategies as st

from supjax.types import Ticket

F32, BF16 = jnp.float32, jnp.bfloat16

CATALOGUE = [
    [((4, 5), F32)],
    [((2, 3), F32), ((3,), F32)],
    [((), F32), ((3, 2, 1, 4), F32), ((4,), F32), ((4, 5), F32)],
    [((0, 3), F32), ((4, 5), F32), ((2, 2, 2), F32)],
    [((1, 1), F32), ((3, 2, 1, 4), BF16), ((), BF16)],
    [((4, 5), BF16), ((2,), F32), ((2, 3), BF16)],
]
"""Leaf lists; every one holds at least one maskable weight (2 or more dimensions)."""


class Layer(NamedTuple):
    """A container that is neither dict nor list."""

    first: Any
    second: Any


@flax.struct.dataclass
class LayerData:
    """The same as a dataclass."""

    first: Any
    second: Any


@st.composite
def rewrapped(draw: st.DrawFn, tree: Any) -> Any:
    """Build a tree of dicts, lists, tuples and `Layer`s from other nodes that name leaves alike."""
    if isinstance(tree, Mapping | list | tuple | LayerData):
        items: Any = enumerate(tree) if isinstance(tree, list | tuple) else vars_of(tree).items()
        if isinstance(tree, Layer):
            items = tree._asdict().items()
        parts = {name: draw(rewrapped(part)) for name, part in items}
        kinds: list[Any] = [dict, flax.core.FrozenDict, nnx.State, OrderedDict, default_dict]
        if isinstance(tree, Layer | LayerData):
            kinds += [lambda parts: Layer(**parts), lambda parts: LayerData(**parts)]
        elif not isinstance(tree, Mapping):
            kinds = [
                lambda parts: list(parts.values()),
                lambda parts: tuple(parts.values()),
                dict,
                lambda parts: {str(i): part for i, part in parts.items()},
            ]
        return draw(st.sampled_from(kinds))(parts)
    if tree is None:
        return None
    return draw(st.sampled_from([lambda leaf: leaf, nnx.Param]))(tree)


def vars_of(node: Any) -> Mapping[Any, Any]:
    """Return the children of a mapping or a dataclass by name."""
    return node if isinstance(node, Mapping) else vars(node)


def default_dict(parts: Mapping[Any, Any]) -> Any:
    """Return the parts in a `defaultdict`."""
    return defaultdict(list, parts)


NODES: dict[str, Callable[[Any, Any], Any]] = {
    "dict": lambda a, b: {"b": a, "a": b},
    "dict with int keys": lambda a, b: {10: a, 9: b},
    "FrozenDict": lambda a, b: flax.core.freeze({"up": a, "down": b}),
    "nnx.State": lambda a, b: nnx.State({"up": a, "down": b}),
    "OrderedDict": lambda a, b: OrderedDict([("second", a), ("first", b)]),
    "defaultdict": lambda a, b: default_dict({"x": a, "y": b}),
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "NamedTuple": Layer,
    "dataclass": LayerData,
}
"""Nodes of two children."""


@st.composite
def mixed(draw: st.DrawFn, leaves: list[Any]) -> Any:
    """Put the leaves, in any order, into a random nest of nodes of every kind."""
    if len(leaves) == 1:
        wrap = nnx.Param if leaves[0] is not None and draw(st.booleans()) else lambda leaf: leaf
        return wrap(leaves[0])
    order = draw(st.permutations(leaves))
    cut = draw(st.integers(1, len(leaves) - 1))
    pair = draw(mixed(order[:cut])), draw(mixed(order[cut:]))
    return NODES[draw(st.sampled_from(sorted(NODES)))](*pair)


NESTS: dict[int, list[Callable[..., Any]]] = {
    1: [lambda a: a, lambda a: {"kernel": [a]}],
    2: [lambda a, b: {"a": a, "b": [b]}, lambda a, b: Layer([a], b)],
    3: [lambda a, b, c: {"a": Layer(a, b), "b": c}, lambda a, b, c: [a, ({"kernel": b}, c)]],
    4: [
        lambda a, b, c, d: Layer({"a": a, "b": b}, (c, d)),
        lambda a, b, c, d: [a, {"a": [b, {"kernel": c}], "b": d}],
    ],
}
"""Count of leaves -> ways to nest them in their order; few, as every tree is a compilation."""


def nested(leaves: list[Any]) -> st.SearchStrategy[Any]:
    """Put the leaves, in their order, into one of a few nests of dicts, lists and NamedTuples."""
    return st.sampled_from(NESTS[len(leaves)]).map(lambda nest: nest(*leaves))


def values(kind: str, rng: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    """Draw numbers: all different, many equal ones, or nothing but zeros of both signs."""
    if kind == "distinct":
        count = int(np.prod(shape))
        return rng.permutation(np.arange(1, count + 1)).reshape(shape) * rng.choice([-1, 1], shape)
    if kind == "ties":
        return rng.randint(-2, 3, shape) / 2
    return rng.choice([0.0, -0.0], shape)


@st.composite
def params_trees(draw: st.DrawFn, kinds: tuple[str, ...] = ("distinct", "ties", "zeros")) -> Any:
    """Trees with maskable and other leaves, zero-size and scalar ones, in float32 and bfloat16."""
    specs = draw(st.sampled_from(CATALOGUE))
    kind = draw(st.sampled_from(kinds))
    rng = np.random.RandomState(draw(st.integers(0, 2**16)))
    return draw(nested([jnp.asarray(values(kind, rng, s), d) for s, d in specs]))


def random_masks(params: Any, rng: np.random.RandomState) -> Any:
    """Draw masks of any density, from empty to full, `None` on the leaves that are not kernels."""

    def draw(leaf: Any) -> Any:
        if leaf.ndim < 2:
            return None
        return jnp.asarray(rng.permutation(leaf.size) < rng.randint(leaf.size + 1)).reshape(
            leaf.shape
        )

    return jax.tree.map(draw, params)


@st.composite
def masked_trees(
    draw: st.DrawFn, kinds: tuple[str, ...] = ("distinct", "ties", "zeros")
) -> tuple[Any, Any]:
    """Pairs `(params, masks)`; the params are not masked."""
    params = draw(params_trees(kinds))
    return params, random_masks(params, np.random.RandomState(draw(st.integers(0, 2**16))))


@st.composite
def ticket_lists(draw: st.DrawFn, n: int) -> list[Ticket]:
    """`n` tickets of one tree and one count per layer; different weights, masks and statistics.

    Every layer keeps at least one weight (if it has any), all kept weights are non-zero and
    bfloat16 holds them exactly.
    """
    specs = draw(st.sampled_from(CATALOGUE))
    rng = np.random.RandomState(draw(st.integers(0, 2**16)))
    kept = [rng.randint(1, max(int(np.prod(shape)), 1) + 1) for shape, _ in specs]
    template = draw(nested(list(range(len(specs)))))
    tickets = []
    for _ in range(n):
        params, masks = [], []
        for (shape, dtype), count in zip(specs, kept, strict=True):
            weights = jnp.asarray(values("distinct", rng, shape) / 4, dtype)
            mask = None
            if len(shape) > 1:
                mask = jnp.asarray(rng.permutation(weights.size) < count).reshape(shape)
                weights = jnp.where(mask, weights, jnp.zeros((), dtype))
            params.append(weights)
            masks.append(mask)
        stats = {"norm": {"mean": jnp.asarray(rng.randint(-8, 9, 3) / 4, F32)}}
        tickets.append(
            Ticket(
                jax.tree.map(lambda i, of=params: of[i], template),
                jax.tree.map(lambda i, of=masks: of[i], template),
                stats,
            )
        )
    return tickets
