"""Ticket files of every kind of tree, and what `like` brings back."""

import collections
import dataclasses
import re
import typing
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, reject
from hypothesis import strategies as st

import supjax
from supjax.ticket_io import load_ticket, save_ticket
from supjax.ticket_io.nodes import plain
from supjax.types import Ticket


class Layer(typing.NamedTuple):
    kernel: typing.Any
    bias: typing.Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Dense:
    kernel: typing.Any
    bias: typing.Any


@flax.struct.dataclass
class Block:
    kernel: typing.Any
    bias: typing.Any
    width: int = flax.struct.field(pytree_node=False, default=3)


@jax.tree_util.register_pytree_node_class
class Nameless:
    """A node that gives its children no names."""

    def __init__(self, kernel, bias):
        self.children = (kernel, bias)

    def tree_flatten(self):
        return self.children, "aux"

    @classmethod
    def tree_unflatten(cls, aux, children):
        assert aux == "aux"
        return cls(*children)


@jax.tree_util.register_pytree_with_keys_class
class Module:
    """As Equinox's modules: fields by name, `None` where something else than an array was."""

    def __init__(self, kernel, bias):
        self.fields = {"activation": None, "kernel": kernel, "bias": bias}

    def tree_flatten_with_keys(self):
        names = tuple(self.fields)
        return [(jax.tree_util.GetAttrKey(n), self.fields[n]) for n in names], names

    @classmethod
    def tree_unflatten(cls, names, children):
        made = object.__new__(cls)
        made.fields = dict(zip(names, children, strict=True))
        return made


NODES = {
    "dict": lambda w, b: {"kernel": w, "bias": b},
    "int keys": lambda w, b: {10: w, 9: b},
    "tuple keys": lambda w, b: {("conv", 0): w, ("conv", 1): b},
    "FrozenDict": lambda w, b: flax.core.freeze({"kernel": w, "bias": b}),
    "OrderedDict": lambda w, b: collections.OrderedDict([("kernel", w), ("bias", b)]),
    "OrderedDict of mixed keys": lambda w, b: collections.OrderedDict([("kernel", w), (0, b)]),
    "defaultdict": lambda w, b: collections.defaultdict(list, {"kernel": w, "bias": b}),
    "list": lambda w, b: [w, b],
    "tuple": lambda w, b: (w, b),
    "NamedTuple": Layer,
    "dataclass": Dense,
    "flax.struct": Block,
    "custom": Nameless,
    "module with None": Module,
    "nnx.State": lambda w, b: nnx.State({"kernel": nnx.Param(w), "bias": nnx.BatchStat(b)}),
    "nnx.State with int keys": lambda w, b: nnx.State({1: nnx.Param(w), 0: {"b": nnx.Param(b)}}),
    "Variable of a tree": lambda w, b: {"x": nnx.Param({"kernel": w, "bias": [b, None]})},
}
"""Makes a tree of two children, which may be trees of their own."""

WRAPPED = {name for name in NODES if "nnx" in name or "Variable" in name}


def leaf(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_masks(tree):
    """A ticket: leaves of two dimensions have masks on the same nodes."""
    masks = jax.tree.map(lambda w: w > 0 if w.ndim == 2 else None, tree)
    return Ticket(jax.tree.map(lambda w: np.where(w > 0, w, 0) if w.ndim == 2 else w, tree), masks)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("trees") / "ticket.npz"


@pytest.mark.parametrize("kind", NODES)
def test_every_kind_of_tree_comes_back(path, kind):
    ticket = with_masks(NODES[kind](leaf(0, 2, 3), leaf(1, 3)))
    ticket = ticket._replace(batch_stats=NODES[kind](leaf(2, 3), leaf(3, 1)))
    save_ticket(path, ticket)
    for like in (ticket, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), ticket)):
        assert_same(load_ticket(path, like=like), ticket)
    found = load_ticket(path, like=ticket.params)
    assert_same((found.params, found.masks), (ticket.params, ticket.masks))
    assert_same(load_ticket(path), Ticket(*map(plain, ticket)))


def test_plain_containers_come_back_as_such_and_others_as_dicts(path):
    tree = {"a": [leaf(0, 2)], ("b", 1): (leaf(1, 2), None)}
    with pytest.raises(ValueError, match=r"^the keys at '' cannot be sorted: name all by strings"):
        save_ticket(path, Ticket(tree, tree))
    tree = {7: [leaf(0, 2)], 8: (leaf(1, 2), None, Layer(leaf(2, 1), {"x": leaf(3, 1)}))}
    save_ticket(path, Ticket(tree, jax.tree.map(lambda _: None, tree)))
    found = load_ticket(path).params
    assert type(found[8]) is tuple
    assert found[8][1] is None
    assert [*found] == [7, 8]
    assert type(found[8][2]) is dict
    assert found[8][2].keys() == {"kernel", "bias"}


@st.composite
def nests(draw, depth=3):
    """Nodes of random kinds in each other, such as JAX takes; no wrapped tree in a wrapped tree."""
    if depth == 0 or draw(st.booleans()):
        shape = draw(st.sampled_from([(), (0,), (3,), (2, 3), (1, 2, 2)]))
        return leaf(draw(st.integers(0, 99)), *shape)
    children = draw(nests(depth - 1)), draw(nests(depth - 1))
    leaves = all(isinstance(child, np.ndarray) for child in children)
    kinds = [kind for kind in NODES if leaves or kind not in WRAPPED]
    tree = NODES[draw(st.sampled_from(kinds))](*children)
    try:
        jax.tree.structure(tree)
    except ValueError:  # a FrozenDict makes its inner dicts such, whose mixed keys have no order
        reject()
    return tree


@given(tree=nests(), stats=nests())
def test_random_trees_of_mixed_nodes_come_back(path, tree, stats):
    ticket = with_masks(tree)._replace(batch_stats=stats)
    save_ticket(path, ticket)
    assert_same(load_ticket(path, like=ticket), ticket)
    assert_same(load_ticket(path), Ticket(*map(plain, ticket)))


@given(tree=nests())
def test_masks_may_have_other_nodes_than_their_params(path, tree):
    ticket = with_masks(tree)
    save_ticket(path, ticket._replace(masks=plain(ticket.masks)))
    assert_same(load_ticket(path, like=ticket), ticket)
    save_ticket(path, ticket._replace(params=plain(ticket.params)))
    assert_same(load_ticket(path, like=ticket), ticket)


@given(tree=nests())
def test_a_ticket_of_one_framework_loads_into_another_of_the_same_names(path, tree):
    ticket = with_masks(tree)
    save_ticket(path, ticket)
    assert_same(load_ticket(path, like=plain(ticket.params)).params, plain(ticket.params))
    save_ticket(path, Ticket(*map(plain, ticket)))
    assert_same(load_ticket(path, like=ticket.params).params, ticket.params)


def test_an_nnx_model_takes_its_ticket_back(path):
    model = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)),
        nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(1)),
    )
    params, stats = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
    masks = jax.tree.map(lambda w: w != 0 if w.ndim == 2 else None, params)
    save_ticket(path, Ticket(params, masks, stats))
    like = Ticket(params, None, stats)
    found = load_ticket(path, like=like)
    assert_same(found, Ticket(params, masks, stats))
    expected = model(jnp.ones((1, 3)))
    nnx.update(model, jax.tree.map(jnp.zeros_like, params))
    nnx.update(model, found.params, found.batch_stats)
    np.testing.assert_array_equal(model(jnp.ones((1, 3))), expected)


def test_names_with_slashes_are_no_trouble_until_they_collide(path):
    tree = {"a/b": leaf(0, 2), "a": {"c": leaf(1, 2)}}
    ticket = Ticket(tree, jax.tree.map(lambda _: None, tree))
    save_ticket(path, ticket)
    assert_same(load_ticket(path, like=tree), ticket)
    tree = {"a/b": leaf(0, 2), "a": {"b": leaf(1, 2, 2)}}
    ticket = with_masks(tree)
    save_ticket(path, ticket)
    assert_same(load_ticket(path), ticket)
    with pytest.raises(ValueError, match=r"^two leaves of the .* have the path 'a/b'$"):
        load_ticket(path, like=tree)


WEIGHTS = {"conv": {"kernel": leaf(0, 2, 3), "bias": leaf(1, 3)}}
STATS = {"bn": {"mean": leaf(2, 3)}}


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({}, "params differ, only the file has a leaf at 'conv/bias'"),
        ({"params": WEIGHTS}, "params differ, only the file has a leaf at 'conv/bias'"),
        (
            {**WEIGHTS, "b" * 9999: 1.0},
            "params differ, the file has no leaf at '" + "b" * 399 + " ...",
        ),
        (
            {"conv": {"kernel": leaf(0, 3, 2), "bias": leaf(1, 3)}},
            "params at 'conv/kernel' are float32 of shape (2, 3), "
            "`like` has float32 of shape (3, 2)",
        ),
        (
            {"conv": {"kernel": leaf(0, 2, 3), "bias": jnp.zeros(3, jnp.bfloat16)}},
            "params at 'conv/bias' are float32 of shape (3,), `like` has bfloat16 of shape (3,)",
        ),
        (
            {"conv": {"kernel": leaf(0, 2, 3), "bias": jax.random.key(0)}},
            "params at 'conv/bias' are float32 of shape (3,), `like` has key<fry> of shape ()",
        ),
        (
            Ticket(WEIGHTS, None),
            "batch_stats differ, only the file has a leaf at 'bn/mean'",
        ),
        (
            Ticket(WEIGHTS, None, {"bn": {"mean": leaf(2, 3), "var": leaf(2, 3)}}),
            "batch_stats differ, the file has no leaf at 'bn/var'",
        ),
        (
            Ticket(WEIGHTS, None, {"bn": {"mean": leaf(2, 4)}}),
            "batch_stats at 'bn/mean' are float32 of shape (3,), `like` has float32 of shape (4,)",
        ),
    ],
)
def test_a_template_that_does_not_fit_is_named_by_path(path, like, message):
    save_ticket(path, Ticket(WEIGHTS, jax.tree.map(lambda _: None, WEIGHTS), STATS))
    with pytest.raises(
        ValueError, match=f"^{re.escape(f'{path} does not fit `like`: {message}')}$"
    ):
        load_ticket(path, like=like)


def test_no_framework_is_imported_for_its_trees():
    for file in Path(supjax.ticket_io.__file__).parent.glob("*.py"):
        assert not re.search(r"^\s*(import|from) +(flax|equinox|haiku)", file.read_text(), re.M)
