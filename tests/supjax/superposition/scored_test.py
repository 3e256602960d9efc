"""Rules that look at held-out losses: by hand, and what must hold whatever the losses are."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import supjax
from supjax import Ticket, superpose, superpose_scored
from supjax.superposition import SUPERPOSITIONS
from supjax.superposition.scored import LEAST_IMAGES, POOL_SHARES
from tests.helpers.counting_rule import counting

RULES = {
    "greedy": {"rule": "greedy"},
    "pools": {"rule": "pools"},
    "guard": {"rule": "guard"},
    "guard of stock": {"rule": "guard", "inner": "stock"},
    "guard of greedy": {"rule": "guard", "inner": "greedy"},
    "guard of pools": {"rule": "guard", "inner": "pools"},
    "guard of a rule of one's own": {"rule": "guard", "inner": counting()},
}
every_rule = pytest.mark.parametrize("name", RULES)

SIZE, KEPT, EXAMPLES = 24, 10, 600
RNG = np.random.RandomState(0)
TRUE = np.where(RNG.permutation(SIZE) < KEPT, 2 + RNG.standard_normal(SIZE), 0)
INPUTS = jnp.asarray(RNG.standard_normal((EXAMPLES, SIZE)), jnp.float32)
TARGETS = INPUTS @ jnp.asarray(TRUE, jnp.float32)


def ticket(weights):
    """A network of one layer, which keeps its largest weights, and a bias that it does not use."""
    kernel = jnp.asarray(weights, jnp.float32).reshape(4, -1)
    masks = {"kernel": supjax.top_k_mask(jnp.abs(kernel), KEPT), "bias": None}
    params = {"kernel": kernel, "bias": jnp.zeros(2)}
    return Ticket(supjax.apply_masks(params, masks), masks, {"mean": jnp.zeros(2)})


@jax.jit
def score(ticket):
    return (INPUTS @ ticket.params["kernel"].ravel() - TARGETS) ** 2


def near(seed, noise=0.3):
    return ticket(TRUE + noise * np.random.RandomState(seed).standard_normal(SIZE) * (TRUE != 0))


HOPELESS = ticket(-3 * TRUE)


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@every_rule
@pytest.mark.parametrize("count", [1, 2, 4])
def test_copies_give_the_ticket_back(name, count):
    one = near(0)
    found, choice = superpose_scored([one] * count, score, **RULES[name])
    assert_same(found, one)
    assert choice.images == EXAMPLES
    np.testing.assert_allclose(choice.loss, score(one).mean(), rtol=1e-6)


@every_rule
@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_hopeless_member_is_left_out(name, place):
    members = [near(seed) for seed in range(3)]
    members.insert(place, HOPELESS)
    found, choice = superpose_scored(members, score, **RULES[name])
    assert place not in dict(choice.members)
    assert score(found).mean() < 2 * score(near(0)).mean()
    assert supjax.count_active(found.masks) == KEPT


@pytest.mark.parametrize("name", ["greedy", "pools", "guard"])
def test_members_that_scatter_around_the_best_network_are_averaged(name):
    members = [near(seed) for seed in range(4)]
    found, choice = superpose_scored(members, score, rule=name)
    assert len(choice.members) > 1
    assert choice.loss < min(score(member).mean() for member in members)
    np.testing.assert_allclose(score(found).mean(), choice.loss, rtol=1e-5)
    np.testing.assert_allclose(sum(share for _, share in choice.members), 1, rtol=1e-6)


@every_rule
@given(seed=st.integers(0, 2**16), noise=st.sampled_from([0.01, 1.0, 5.0]))
def test_whatever_the_members_are(name, seed, noise):
    members = [near(seed + i, noise) for i in range(3)]
    found, choice = superpose_scored(members, score, **RULES[name])
    losses = [float(score(member).mean()) for member in members]
    rounding = 1 + 1e-6
    if choice.rule == "guard":
        assert choice.loss <= losses[-1] * rounding
    else:
        assert choice.loss <= min(losses) * rounding
    assert supjax.count_active(found.masks) == KEPT
    assert_same(found.params, supjax.apply_masks(found.params, found.masks))
    assert (choice.name, choice.members, choice.loss) in choice.candidates
    assert [row.name for row in choice.candidates[:3]] == ["ticket 0", "ticket 1", "ticket 2"]


def test_the_guard_of_all_tickets_gives_what_superpose_gives():
    members = [near(seed) for seed in range(4)]
    for rule in ("cia", "caa", "cima", "stock"):
        found, choice = superpose_scored(members, score, rule="guard", inner=rule)
        assert choice.name == f"{rule} of all tickets"
        assert_same(found, superpose(members, average=rule))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_density_holds_for_single_tickets_too(scope):
    members = [near(seed) for seed in range(3)]
    wanted = superpose(members[:1], density=5 / SIZE, scope=scope)
    found, choice = superpose_scored(members[:1], score, density=5 / SIZE, scope=scope)
    assert_same(found, wanted)
    assert supjax.count_active(found.masks) == 5
    assert choice.name == "ticket 0"


def scalar(value):
    return {"w": jnp.full((1, 1), value)}


def distance(wanted):
    """The score of networks of one weight: how far it is from a value, for every example."""
    return lambda ticket: jnp.full(EXAMPLES, abs(ticket.params["w"][0, 0] - wanted))


def test_greedy_by_hand():
    # 3.5 is nearest to 4; with 3.1 (mean 3.3) it is worse, with 5 (mean 4.25) better, and with 3
    # as well (3.83) better still
    members = [scalar(w) for w in (3.0, 3.5, 5.0, 3.1)]
    found, choice = superpose_scored(members, distance(4.0), rule="greedy")
    tried = [dict(row.members).keys() for row in choice.candidates[4:]]
    assert tried == [{1, 3}, {1, 2}, {0, 1, 2}]
    np.testing.assert_allclose(found.params["w"], [[(3.5 + 5.0 + 3.0) / 3]], rtol=1e-6)
    assert dict(choice.members) == {1: 1 / 3, 2: 1 / 3, 0: 1 / 3}
    np.testing.assert_allclose(choice.loss, 4 - 11.5 / 3, rtol=1e-5)


def test_pools_by_hand():
    # from 2 towards 6 by 0.3 to 3.2, the best; no share of 9 comes nearer
    members = [scalar(w) for w in (6.0, 2.0, 9.0)]
    found, choice = superpose_scored(members, distance(3.2), rule="pools")
    np.testing.assert_allclose(found.params["w"], [[3.2]], rtol=1e-6)
    assert choice.members == ((1, 0.7), (0, 0.3))
    assert len(choice.candidates) == 3 + 2 * len(POOL_SHARES)
    assert POOL_SHARES == (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def table(losses):
    """A score that looks losses up by the network's one weight."""
    return lambda ticket: jnp.asarray(losses[round(float(ticket.params["w"][0, 0]), 3)])


SPREAD = np.tile([-0.5, 0.5], EXAMPLES // 2)
"""Paired with zeros: mean 0 and a standard error of 0.5 / sqrt(599) = 0.0204."""


@pytest.mark.parametrize(
    ("last", "best", "mean", "expected"),
    [
        (0.02 + SPREAD, 0.01, 0.0, "ticket 1"),  # the last is within one standard error
        (0.021 + SPREAD, 0.02 + SPREAD, 0.0, "ticket 0"),
        (0.021 + SPREAD, 0.021 + SPREAD - 1e-4, 0.0, "cia of all tickets"),
        (0.02, 0.01, 0.0, "cia of all tickets"),  # no noise: every gain counts
        (0.0, 0.0, 0.0, "ticket 1"),
        (0.5, 0.3, 0.9, "ticket 0"),
        (0.2, np.nan, np.nan, "ticket 1"),
        (np.inf, 0.3, np.nan, "ticket 0"),
    ],
)
def test_the_guard_takes_the_simplest_that_is_near_the_lowest(last, best, mean, expected):
    rows = {1.0: best, 2.0: last, 1.5: mean}
    losses = {key: row + np.zeros(EXAMPLES, np.float32) for key, row in rows.items()}
    found, choice = superpose_scored([scalar(1.0), scalar(2.0)], table(losses))
    assert (choice.rule, choice.name) == ("guard", expected)
    row = losses[round(float(found.params["w"][0, 0]), 3)]
    error = np.std(row, ddof=1, dtype=np.float64) / EXAMPLES**0.5
    np.testing.assert_allclose(choice.standard_error, error, rtol=1e-4, atol=1e-7)


def test_every_candidate_is_prepared_with_its_members_and_comes_back_prepared():
    members = [near(seed) for seed in range(3)]
    seen, scored = [], []

    def prepare(candidate, of, shares):
        seen.append((len(of), sum(shares)))
        return candidate._replace(batch_stats={"mean": jnp.full(2, float(len(of)))})

    def noting(ticket):
        scored.append(float(ticket.batch_stats["mean"][0]))
        return score(ticket)

    found, choice = superpose_scored(members, noting, rule="greedy", prepare=prepare)
    assert [count for count, _ in seen] == scored == [len(c.members) for c in choice.candidates]
    np.testing.assert_allclose([total for _, total in seen], 1, rtol=1e-6)
    assert found.batch_stats["mean"].tolist() == [len(choice.members)] * 2


def test_a_choice_goes_into_a_summary_as_it_is():
    _, choice = superpose_scored([near(0), near(1)], score)
    kinds = {type(value) for value in choice[:2]}, type(choice.loss), type(choice.images)
    assert kinds == ({str}, float, int)
    assert all(isinstance(row.loss, float) for row in choice.candidates)


def few(count):
    return lambda ticket: jnp.ones(count)


def changing():
    counts = iter([600, 601])
    return lambda ticket: jnp.ones(next(counts))


@pytest.mark.parametrize(
    ("given_score", "options", "error", "message"),
    [
        (
            few(LEAST_IMAGES - 1),
            {},
            ValueError,
            "score gave 499 losses: a choice needs at least 500 held-out examples, or force=True",
        ),
        (
            changing(),
            {},
            ValueError,
            "score must use the same examples every time: 601 losses after 600",
        ),
        (
            lambda ticket: jnp.float32(0.5),
            {},
            ValueError,
            "what score returns must have shape (examples,), one loss each, got ()",
        ),
        (
            lambda ticket: jnp.ones(600, jnp.int32),
            {},
            TypeError,
            "what score returns must be floating-point, got int32",
        ),
        (
            lambda ticket: jnp.full(600, jnp.nan),
            {},
            ValueError,
            "none of 3 candidates has a finite mean loss",
        ),
        (
            score,
            {"rule": "best"},
            ValueError,
            "rule must be one of ['greedy', 'guard', 'pools'], got 'best'",
        ),
        (
            score,
            {"inner": "swa"},
            ValueError,
            f"inner must be one of {sorted([*SUPERPOSITIONS, 'greedy', 'pools'])}, got 'swa'",
        ),
        (
            score,
            {"scope": "net"},
            ValueError,
            "scope must be one of ['global', 'layer'], got 'net'",
        ),
        (score, {"density": 2}, ValueError, "density must be in (0, 1], got 2"),
    ],
)
def test_what_does_not_do_is_refused_in_one_line(given_score, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        superpose_scored([near(0), near(1)], given_score, **options)


def test_few_examples_may_be_forced():
    found, choice = superpose_scored([scalar(1.0), scalar(2.0)], few(2), force=True)
    assert (choice.images, choice.name, float(found.params["w"][0, 0])) == (2, "ticket 1", 2.0)
