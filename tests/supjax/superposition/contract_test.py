"""One contract over the registry of averaging rules: a new rule is picked up by its line."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from supjax import Ticket, make_superposition, superpose
from supjax.allocation import budget
from supjax.superposition import SCOPES, SUPERPOSITIONS
from supjax.tickets import on_nodes_of
from supjax.types import Superposition
from tests.helpers.counting_rule import counting
from tests.helpers.strategies import Layer


def by_sign() -> Superposition:
    """A rule that owes nothing to the engine: votes by sign; its state is of its own kind."""

    def init(ticket):
        signs = jax.tree.map(lambda w: jnp.sign(w), ticket.params)
        return {"first": ticket, "votes": signs, "members": jnp.int32(1)}

    def fold(state, ticket):
        ticket = on_nodes_of(state["first"], ticket, "ticket")
        votes = jax.tree.map(lambda v, w: v + jnp.sign(w), state["votes"], ticket.params)
        return {**state, "votes": votes, "members": state["members"] + 1}

    def result(state):
        params = jax.tree.map(
            lambda w, v: jnp.where(v == 0, 0, jnp.abs(w) * jnp.sign(v)).astype(w.dtype),
            state["first"].params,
            state["votes"],
        )
        masks = jax.tree.map(
            lambda w, m: None if m is None else w != 0, params, state["first"].masks
        )
        return Ticket(params, masks, state["first"].batch_stats)

    return Superposition(init, fold, result)


RULES = {**SUPERPOSITIONS, "counting": counting}

every_rule = pytest.mark.parametrize("name", RULES)

DENSITY = 0.4
SIZE = 20 + 24 + 18
KEPT = budget(DENSITY, SIZE)


def ticket(seed: int) -> Ticket:
    """Dicts, a list, a tuple and a NamedTuple of kernels, a bias and a scalar; one in bfloat16."""
    rng = np.random.RandomState(seed)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    params = {
        "block": Layer(
            first={"kernel": draw(4, 5), "bias": draw(5)},
            second=[draw(3, 2, 1, 4).astype(jnp.bfloat16), draw()],
        ),
        "head": (draw(6, 3),),
    }
    masks = supjax.init_masks(jax.random.key(seed), params, DENSITY)
    stats = {"mean": draw(3), "steps": jnp.int32(10 * seed)}
    return Ticket(supjax.apply_masks(params, masks), masks, stats)


TICKETS = [ticket(seed) for seed in range(4)]


@functools.cache
def compiled(name):
    """A rule and its three functions, compiled."""
    rule = RULES[name](density=DENSITY)
    return rule, *(jax.jit(f) for f in (rule.init, rule.fold, rule.result))


@functools.cache
def states(name):
    """The compiled states after every member."""
    _, init, fold, _ = compiled(name)
    found = [init(TICKETS[0])]
    for one in TICKETS[1:]:
        found.append(fold(found[-1], one))
    return found


def kinds(tree):
    structure = jax.tree.structure(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def assert_close(first, second, rtol=1e-2):
    assert kinds(first) == kinds(second)
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), np.asarray(theirs, np.float32), rtol=rtol, atol=1e-5
        )


@every_rule
def test_one_member_comes_back(name):
    rule, _, _, result = compiled(name)
    assert_close(rule.result(rule.init(TICKETS[0])), TICKETS[0], rtol=0)
    assert_close(result(states(name)[0]), TICKETS[0], rtol=0)


@every_rule
@pytest.mark.parametrize("count", [2, 3, 4])
def test_any_number_of_members_gives_the_exact_density(name, count):
    result = compiled(name)[3](states(name)[count - 1])
    assert kinds(result) == kinds(TICKETS[0])
    assert supjax.count_active(result.masks) == KEPT
    masked = supjax.apply_masks(result.params, result.masks)
    jax.tree.map(np.testing.assert_array_equal, masked, result.params)
    zeros = jax.tree.map(lambda w, m: None if m is None else w != 0, result.params, result.masks)
    jax.tree.map(np.testing.assert_array_equal, zeros, result.masks)


@every_rule
def test_compiled_and_eager_agree(name):
    rule = compiled(name)[0]
    state = rule.init(TICKETS[0])
    for one in TICKETS[1:]:
        state = rule.fold(state, one)
    eager, traced = rule.result(state), compiled(name)[3](states(name)[-1])
    jax.tree.map(np.testing.assert_array_equal, traced.masks, eager.masks)
    assert_close(traced.params, eager.params)
    assert_close(traced.batch_stats, eager.batch_stats)


@every_rule
def test_the_state_is_arrays_and_of_one_size_whatever_was_folded(name):
    sizes = [kinds(state) for state in states(name)]
    assert sizes == [sizes[0]] * len(TICKETS)
    for i, state in enumerate(states(name)):
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
        assert (int(state.members), float(state.weight)) == (i + 1, i + 1)


@every_rule
def test_a_second_fold_compiles_nothing(name):
    rule = compiled(name)[0]
    traces = []

    @jax.jit
    def fold(state, one):
        traces.append(state)
        return rule.fold(state, one)

    state = states(name)[0]
    for one in TICKETS[1:]:
        state = fold(state, one)
    assert len(traces) == 1


@every_rule
def test_two_superpositions_side_by_side(name):
    rule = compiled(name)[0]
    pairs = [
        jax.tree.map(lambda a, b: jnp.stack([a, b]), TICKETS[i], TICKETS[j])
        for i, j in ((0, 2), (1, 3))
    ]
    both = jax.jit(jax.vmap(lambda a, b: rule.result(rule.fold(rule.init(a), b))))(*pairs)
    for i in range(2):
        alone = rule.result(rule.fold(rule.init(TICKETS[2 * i]), TICKETS[2 * i + 1]))
        own = jax.tree.map(lambda leaf, i=i: leaf[i], both)
        jax.tree.map(np.testing.assert_array_equal, own.masks, alone.masks)
        assert_close(own.params, alone.params)


@every_rule
def test_superpose_is_the_rule(name):
    expected = compiled(name)[0]
    state = expected.init(TICKETS[0])
    for one in TICKETS[1:]:
        state = expected.fold(state, one)
    assert_close(superpose(TICKETS, average=expected), expected.result(state), rtol=0)
    if name in SUPERPOSITIONS:
        assert_close(superpose(TICKETS, average=name, density=DENSITY), expected.result(state))


@every_rule
@pytest.mark.parametrize("scope", SCOPES)
def test_without_a_density_as_many_weights_stay_as_the_ticket_has(name, scope):
    rule = RULES[name](scope=scope)
    result = rule.result(rule.fold(rule.init(TICKETS[0]), TICKETS[1]))
    assert supjax.count_active(result.masks) == KEPT
    if scope == "layer":
        counts = [
            [int(m.sum()) for m in jax.tree.leaves(one.masks)] for one in (result, TICKETS[1])
        ]
        assert counts[0] == counts[1]


@every_rule
def test_weights_are_taken_or_refused(name):
    rule = compiled(name)[0]
    if rule.weighted:
        twice = rule.fold(rule.init(TICKETS[0], 2.0), TICKETS[1], 4.0)
        once = rule.fold(rule.init(TICKETS[0], 1.0), TICKETS[1], 2.0)
        assert_close(rule.result(twice), rule.result(once))
        assert (float(once.weight), float(twice.weight)) == (3.0, 6.0)
    else:
        with pytest.raises(ValueError, match="its members have none"):
            superpose(TICKETS, average=rule, weights=[1, 2, 3, 4])


@every_rule
def test_members_of_other_networks_are_refused(name):
    rule = compiled(name)[0]
    other = Ticket({"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 2), bool)})
    with pytest.raises(ValueError, match=r"^ticket differs from the first in params at "):
        rule.fold(rule.init(TICKETS[0]), other)


@every_rule
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.0}, "density must be in (0, 1], got 0.0"),
        ({"scope": "net"}, "scope must be one of ['global', 'layer'], got 'net'"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        RULES[name](**options)


def test_a_rule_with_a_count_of_its_own():
    # (8,4,1) and (2,0,2) have the mean (5,2,1.5), of which two stay. Kept twice, those move by a
    # third towards (2,5,9): (4,3,.); the third, which was dropped, starts again with 9.
    members = [
        Ticket({"w": jnp.array([row])}, {"w": jnp.array([row]) != 0})
        for row in ([8.0, 4.0, 1.0], [2.0, 0.0, 2.0], [2.0, 5.0, 9.0])
    ]
    rule = counting(density=0.67)
    state = rule.fold(rule.init(members[0]), members[1])
    assert state.ticket.params["w"].tolist() == [[5.0, 2.0, 0.0]]
    assert state.extra["w"].tolist() == [[2.0, 2.0, 0.0]]
    state = rule.fold(state, members[2])
    np.testing.assert_allclose(state.ticket.params["w"], [[4.0, 0.0, 9.0]], rtol=1e-6)
    assert state.extra["w"].tolist() == [[3.0, 0.0, 1.0]]


def test_a_rule_with_a_state_of_its_own_kind():
    found = superpose(TICKETS[:3], average=by_sign())
    kernel = np.asarray(found.params["head"][0])
    votes = sum(np.sign(t.params["head"][0]) for t in TICKETS[:3])
    expected = np.abs(TICKETS[0].params["head"][0]) * np.sign(votes)
    np.testing.assert_array_equal(kernel, expected)
    with pytest.raises(TypeError, match="a state of its own kind goes by its init, fold and"):
        supjax.superpose_step(TICKETS[0], TICKETS[1], 1, average=by_sign())


def test_the_registry_names_what_it_takes():
    known = ", ".join(sorted(SUPERPOSITIONS))
    cases = [
        (
            lambda: make_superposition("swa"),
            ValueError,
            f"unknown averaging rule 'swa'; known: {known}",
        ),
        (
            lambda: make_superposition("cima", betas=1),
            TypeError,
            "cima takes no argument 'betas'; it takes: density, scope, beta, axes_fn",
        ),
        (lambda: make_superposition("cima", beta=2), ValueError, "beta must be in [0, 1], got 2"),
        (
            lambda: superpose(TICKETS, average=RULES["cia"](), density=0.5),
            ValueError,
            "density, scope, beta and axes_fn are arguments of the rule that average= brings",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            call()
    assert {*supjax.superposition.__all__} >= {"SUPERPOSITIONS", *SUPERPOSITIONS}
    for factory in SUPERPOSITIONS.values():
        assert {"density", "scope"} <= inspect.signature(factory).parameters.keys()
