"""Leaves are matched by their paths, whatever nodes and wrappers hold them."""

import re

import flax
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from supjax.trees import is_none, map_named, named_leaves, rehang, same_names, unwrapped
from tests.helpers.strategies import Layer, LayerData, params_trees, rewrapped


@given(params_trees(), st.data())
def test_other_nodes_name_the_same_leaves(tree, data):
    other = data.draw(rewrapped(tree))
    ours, theirs = named_leaves(tree), named_leaves(other)
    assert ours.keys() == theirs.keys()
    assert all(leaf is theirs[name] for name, leaf in ours.items())


@given(params_trees(), st.data())
def test_rehanging_keeps_every_leaf_and_takes_the_other_nodes(tree, data):
    like, other = data.draw(rewrapped(tree)), data.draw(rewrapped(tree))
    hung = rehang(other, like)
    assert jax.tree.structure(hung) == jax.tree.structure(like)
    leaves = named_leaves(tree)
    assert all(leaf is leaves[name] for name, leaf in named_leaves(hung).items())


@given(params_trees(), st.data())
def test_none_leaves_are_rehung_beside_weights(tree, data):
    like = data.draw(rewrapped(tree))
    flags = {name: None if leaf.ndim == 2 else name for name, leaf in named_leaves(tree).items()}
    hung = rehang(flags, like)
    assert named_leaves(hung) == flags
    pairs = jax.tree.map(lambda leaf, flag: (leaf.ndim == 2) == (flag is None), like, hung)
    assert all(jax.tree.leaves(pairs))


PARTITIONED = nn.Partitioned(jnp.ones((1, 2)), names=(None, None))


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"conv": [{"kernel": 1.0}, None]}, ["conv/0/kernel", "conv/1"]),
        ({"a": nnx.Param(jnp.ones(1)), "b": nnx.Param(None)}, ["a", "b"]),
        ({"a": nnx.Param({"x": 1.0, "y": None})}, ["a/x", "a/y"]),
        (nnx.State({"layers": {0: {"w": nnx.Param(jnp.ones(1))}}}), ["layers/0/w"]),
        ({"dense": {"kernel": PARTITIONED}}, ["dense/kernel"]),
        (Layer(1.0, LayerData(2.0, None)), ["first", "second/first", "second/second"]),
        ({"net/linear": {"w": 1.0}}, ["net/linear/w"]),
        (flax.core.freeze({"a": {"b": (1.0, 2.0)}}), ["a/b/0", "a/b/1"]),
        (1.0, [""]),
        (None, [""]),
        ({}, []),
    ],
)
def test_names_by_hand(tree, names):
    assert list(named_leaves(tree)) == names
    bare = unwrapped(tree)
    assert not [node for node in jax.tree.leaves(bare) if isinstance(node, nnx.Variable)]
    assert len(jax.tree.leaves(bare, is_leaf=is_none)) == len(names)


BAD = [
    (lambda: named_leaves({"a/b": 1.0, "a": {"b": 2.0}}, "params"),
     "two leaves of the params have the path 'a/b'"),
    (lambda: same_names([1.0], [1.0, 2.0], ("params", "masks")),
     "params and masks differ: params have no leaf at '1'"),
    (lambda: rehang({"w": 1.0}, {"w": 1.0, "x": None}, ("grads", "params")),
     "grads and params differ: grads have no leaf at 'x'"),
    (lambda: rehang(nnx.State({"w": nnx.Param(1.0)}), {"v": 1.0}, ("masks", "params")),
     "masks and params differ: masks have no leaf at 'v'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[row[-1] for row in BAD])
def test_trees_that_do_not_belong_together_name_a_path(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_maps_by_name_keep_nodes_and_see_no_wrapper():
    tree = nnx.State({"conv": {"kernel": nnx.Param(jnp.ones(2)), "bias": nnx.Param(None)}})
    seen = []
    mapped = map_named(lambda name, leaf: seen.append(name) or 2 * leaf, tree)
    assert seen == ["conv/kernel"]
    assert jax.tree.structure(mapped) == jax.tree.structure(tree)
    assert mapped["conv"]["kernel"].get_value().tolist() == [2.0, 2.0]
