"""What holds for every superposition, over random trees and tickets."""

import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import supjax
from supjax import Ticket, make_superposition, superpose, superpose_step
from supjax.superposition import SCOPES, SUPERPOSITIONS
from supjax.trees import is_none
from tests.helpers.strategies import ticket_lists

averages = st.sampled_from(sorted(SUPERPOSITIONS))
scopes = st.sampled_from(SCOPES)
densities = st.sampled_from([0.05, 0.2, 0.5, 0.9, 1.0])


def leaves(tree):
    return jax.tree.leaves(tree, is_leaf=is_none)


def assert_same_bits(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def assert_close(first, second, **tolerance):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), np.asarray(theirs, np.float64), **tolerance
        )


@given(ticket_lists(1), st.integers(1, 4), averages, scopes)
def test_copies_give_the_ticket_back(tickets, copies, average, scope):
    assert_same_bits(superpose(tickets * copies, average=average, scope=scope), tickets[0])


@given(ticket_lists(2), st.sampled_from(["cia", "caa"]), st.sampled_from([None, 0.3]))
def test_the_order_of_the_first_two_does_not_matter(tickets, average, density):
    forward = superpose(tickets, average=average, density=density)
    assert_same_bits(superpose(tickets[::-1], average=average, density=density), forward)


@given(ticket_lists(3), st.sampled_from([None, [1.0, 2.0, 0.5]]))
def test_with_nothing_to_prune_the_fold_is_the_mean(tickets, weights):
    result = superpose(tickets, density=1.0, weights=weights)
    shares = np.ones(3) if weights is None else np.asarray(weights)

    def mean(*leaves):
        members = np.stack([np.asarray(leaf, np.float64) for leaf in leaves])
        return np.tensordot(shares / shares.sum(), members, axes=1)

    low = any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(tickets[0].params))
    tolerance = 2e-2 if low else 1e-6
    assert_close(
        result.params,
        jax.tree.map(mean, *(t.params for t in tickets)),
        rtol=tolerance,
        atol=tolerance,
    )
    stats = jax.tree.map(mean, *(t.batch_stats for t in tickets))
    assert_close(result.batch_stats, stats, rtol=1e-6, atol=1e-6)


@given(ticket_lists(3), densities, averages, scopes)
def test_the_density_is_exact_and_the_mask_is_the_non_zeros(tickets, density, average, scope):
    result = superpose(tickets, density=density, average=average, scope=scope)
    active = supjax.count_active(result.masks)
    size = supjax.count_maskable(result.masks)
    wanted = int(Fraction(str(density)) * size + Fraction(1, 2))
    union = supjax.count_active(superpose(tickets, density=1.0, average=average).masks)
    if wanted <= min(supjax.count_active(t.masks) for t in tickets):
        assert active == wanted
    else:
        assert active <= min(wanted, union)
    masks = jax.tree.map(
        lambda weight, mask: None if mask is None else weight != 0, result.params, result.masks
    )
    assert_same_bits(masks, result.masks)


@given(ticket_lists(3), averages, scopes)
def test_by_default_the_count_of_the_tickets_is_kept(tickets, average, scope):
    positive = [t._replace(params=jax.tree.map(jnp.abs, t.params)) for t in tickets]
    result = superpose(positive, average=average, scope=scope)  # no two weights cancel
    assert supjax.count_active(result.masks) == supjax.count_active(tickets[0].masks)


@given(ticket_lists(3), averages, scopes)
def test_stacked_tickets_are_the_list(tickets, average, scope):
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tickets)
    assert_same_bits(
        superpose(stacked, average=average, scope=scope),
        superpose(tickets, average=average, scope=scope),
    )


@given(ticket_lists(3), averages, st.sampled_from([None, 0.3]))
def test_params_are_tickets_whose_masks_are_the_non_zeros(tickets, average, density):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the density asked for is another one
        plain = superpose([t.params for t in tickets], average=average, density=density)
    full = [m is not None and m.size > 0 and bool(m.all()) for m in leaves(tickets[0].masks)]
    some = any(m is not None and not f for m, f in zip(leaves(tickets[0].masks), full, strict=True))
    kept = iter(full)
    dense = jax.tree.map(lambda leaf: some and next(kept), tickets[0].masks, is_leaf=is_none)
    bare = [
        Ticket(t.params, jax.tree.map(lambda w, d, m: None if d else m, t.params, dense, t.masks))
        for t in tickets
    ]
    assert_same_bits(plain, superpose(bare, average=average, density=density))


@given(ticket_lists(3), averages, scopes)
def test_folding_by_hand_is_superpose(tickets, average, scope):
    expected = superpose(tickets, average=average, scope=scope)
    rule = make_superposition(average, scope=scope)
    state = rule.init(tickets[0])
    for ticket in tickets[1:]:
        state = rule.fold(state, ticket)
    assert_same_bits(rule.result(state), expected)
    if not jax.tree.leaves(state.extra):
        running = tickets[0]
        for count, ticket in enumerate(tickets[1:], start=1):
            running = superpose_step(
                running, ticket, jnp.int32(count), average=average, scope=scope
            )
        assert_same_bits(running, expected)


@given(ticket_lists(2))
def test_one_network_in_every_form_of_weight(tickets):
    twice = superpose([tickets[0], tickets[1], tickets[1]], density=1.0)
    weighted = superpose(tickets, density=1.0, weights=[1, 2])
    assert_close(weighted.params, twice.params, rtol=2e-2, atol=2e-2)


@settings(max_examples=6)
@given(ticket_lists(2), scopes)
def test_compiled_and_eager_agree(tickets, scope):
    eager = superpose(tickets, scope=scope, density=0.3)
    compiled = jax.jit(lambda t: superpose(t, scope=scope, density=0.3))(tickets)
    assert_same_bits(compiled.masks, eager.masks)
    assert_close(compiled.params, eager.params, rtol=1e-2)


@pytest.mark.parametrize("average", SUPERPOSITIONS)
def test_a_fold_holds_no_more_than_two_tickets(average):
    size = 1 << 20
    ticket = Ticket({"w": jnp.ones((1, size))}, {"w": jnp.ones((1, size), bool)})
    rule = make_superposition(average)
    state = rule.init(ticket)
    memory = jax.jit(rule.fold).lower(state, ticket).compile().memory_analysis()
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(state.extra))
    assert memory.output_size_in_bytes < 5.1 * size + own  # weights and masks of one ticket
    assert memory.temp_size_in_bytes < 20 * size
