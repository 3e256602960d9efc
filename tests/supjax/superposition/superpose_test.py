"""Superposition on networks small enough to work out by hand, and every refusal."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from supjax import Ticket, make_superposition, superpose, superpose_step


def net(*rows):
    """A network of one-row kernels, `a`, `b`, ..., with masks read off the non-zeros."""
    return {
        name: jnp.asarray([row], jnp.float32) for name, row in zip("abcdef", rows, strict=False)
    }


def as_ticket(params, **stats):
    masks = jax.tree.map(lambda w: w != 0 if w.ndim == 2 else None, params)
    return Ticket(params, masks, jax.tree.map(jnp.asarray, stats))


def fold(members, **options):
    """The superposition of plain members as tickets, which carry their masks."""
    return superpose([as_ticket(member) for member in members], **options)


def rows(ticket):
    """The weights of a superposed network, after checking that its masks are its non-zeros."""
    for weight, mask in zip(
        jax.tree.leaves(ticket.params), jax.tree.leaves(ticket.masks), strict=True
    ):
        np.testing.assert_array_equal(mask, weight != 0)
    return [leaf[0].tolist() for leaf in jax.tree.leaves(ticket.params)]


ONE, TWO, THREE = net([4, -2, 0, 0]), net([2, 0, 3, 0]), net([0, 0, 2, -9])


@pytest.mark.parametrize(
    ("options", "members", "expected"),
    [
        # (4,-2,0,0) and (2,0,3,0) have the mean (3,-1,1.5,0), of which two weights stay.
        ({}, [ONE, TWO], [3, 0, 1.5, 0]),
        ({"density": 0.75}, [ONE, TWO], [3, -1, 1.5, 0]),
        ({"density": 0.25}, [ONE, TWO], [3, 0, 0, 0]),
        # Then a third of (0,0,2,-9) comes in: 2/3 (3,0,1.5,0) + 1/3 (0,0,2,-9) = (2,0,5/3,-3). The
        # -2/3 that one mean of all three would hold at the second place is gone: pruned early.
        ({}, [ONE, TWO, THREE], [2, 0, 0, -3]),
        ({"density": 1.0}, [ONE, TWO, THREE], [2, -2 / 3, 5 / 3, -3]),
        # Weights 3 and 1: 3/4 (4,-2,0,0) + 1/4 (2,0,3,0) = (3.5,-1.5,0.75,0).
        ({"weights": [3, 1]}, [ONE, TWO], [3.5, -1.5, 0, 0]),
        # Then (3.5,-1.5,0,0) has weight 4 and the third 4: (1.75,0,1,-4.5).
        ({"weights": [3, 1, 4]}, [ONE, TWO, THREE], [1.75, 0, 0, -4.5]),
        # Connection-aware: only the first place is active in both.
        ({"average": "caa"}, [ONE, TWO], [3, 0, 3, 0]),
        ({"average": "caa", "density": 0.75}, [ONE, TWO], [3, -2, 3, 0]),
        # The third place was active twice, (3+2)/2; the first keeps its mean of two.
        ({"average": "caa", "density": 1.0}, [ONE, TWO, THREE], [3, -2, 2.5, -9]),
        ({"average": "caa", "density": 1.0, "weights": [1, 3]}, [ONE, TWO], [2.5, -2, 3, 0]),
        # A moving average: 0.75 (4,-2,0,0) + 0.25 (2,0,3,0).
        ({"average": "cima", "beta": 0.75}, [ONE, TWO], [3.5, -1.5, 0, 0]),
        ({"average": "cima"}, [ONE, TWO, THREE], [0, 0, 1.75, -4.5]),
        ({"average": "cima", "beta": 0.0}, [ONE, TWO], [2, 0, 3, 0]),
        ({"average": "cima", "beta": 1.0}, [ONE, TWO], [4, -2, 0, 0]),
        ({}, [ONE], [4, -2, 0, 0]),
        ({"density": 0.25}, [ONE], [4, 0, 0, 0]),
    ],
)
def test_by_hand(options, members, expected):
    result = fold(members, **options)
    np.testing.assert_allclose(rows(result)[0], expected, rtol=1e-6)


def test_connection_aware_forgets_what_was_pruned_back():
    # The second place loses the first fold with 1 against 5 and 4. When it comes back with 8, it
    # is new: 8, and not (1 + 8) / 2. The first place has been active twice, the third once.
    members = [net([4, 1, 0]), net([6, 0, 4]), net([0, 8, 0])]
    assert rows(fold(members, average="caa", density=0.67))[0] == [5, 8, 0]


def test_scopes():
    # The means are (3,2,1,0) and (9,8,7,6); four of eight weights stay.
    members = [net([3, 2, 1, 0], [9, 8, 7, 6])] * 2
    assert rows(fold(members, density=0.5)) == [[0, 0, 0, 0], [9, 8, 7, 6]]
    halves = [
        as_ticket(net([3, 2, 0, 0], [9, 8, 0, 0])),
        as_ticket(net([0, 0, 5, 4], [0, 0, 7, 6])),
    ]
    layered = superpose(halves, scope="layer")
    assert rows(layered) == [[0, 0, 2.5, 2], [4.5, 4, 0, 0]]
    assert rows(superpose(halves)) == [[0, 0, 0, 0], [4.5, 4, 3.5, 3]]
    # With a density of its own, the layers keep their proportions: 2 of (2 + 2) become 1 and 1.
    assert rows(superpose(halves, scope="layer", density=0.25)) == [[0, 0, 2.5, 0], [4.5, 0, 0, 0]]


def test_without_a_density_the_rounded_mean_of_the_counts_is_kept():
    members = [net([1, 2, 3, 4]), net([0, 0, 0, 5]), net([0, 0, 0, 6])]  # 4, 1 and 1 active
    np.testing.assert_allclose(rows(fold(members))[0], [0, 0, 1, 5], rtol=1e-6)
    two = [net([1, 2, 3, 4]), net([0, 0, 0, 5])]  # 2.5 rounds up
    assert rows(fold(two))[0] == [0, 1, 1.5, 4.5]
    assert rows(fold(two[::-1])) == rows(fold(two))


def test_ties_go_to_the_lowest_index_of_the_first_leaf():
    members = [net([1, -1, 0], [1, 1, -1]), net([1, -1, 0], [1, 1, -1])]
    assert rows(fold(members, density=0.5)) == [[1, -1, 0], [1, 0, 0]]


def test_a_budget_above_the_non_zeros_prunes_nothing_and_activates_no_zero():
    members = [net([4, 0, 0, 0]), net([0, -2, 0, 0])]
    for scope in ("global", "layer"):
        result = fold(members, density=1.0, scope=scope)
        assert rows(result)[0] == [2, -1, 0, 0]
        assert supjax.count_active(result.masks) == 2
    cancelled = fold([net([4, 1]), net([-4, 1])])
    assert rows(cancelled)[0] == [0, 1]


def test_infinities_stay_and_nan_goes_first():
    members = [net([jnp.nan, 1, 2, jnp.inf]), net([1, 1, 2, 1])]
    assert rows(fold(members, density=0.75))[0] == [0, 1, 2, jnp.inf]
    assert rows(fold(members, density=0.25))[0] == [0, 0, 0, jnp.inf]
    assert np.isnan(fold(members).params["a"][0, 0])
    opposite = fold([net([jnp.inf, 1, 0]), net([-jnp.inf, 0, 3])], density=0.6)
    assert rows(opposite)[0] == [0, 0.5, 1.5]


def test_dense_leaves_and_statistics_are_averaged_whole():
    kernel = jnp.ones((1, 2))
    members = [
        as_ticket({"k": kernel, "b": jnp.asarray([value, 0.0])}, mean=jnp.asarray([value]), n=steps)
        for value, steps in ((1.0, 100), (4.0, 107), (1.0, 114))
    ]
    result = superpose(members)
    np.testing.assert_allclose(result.params["b"], [2.0, 0.0], rtol=1e-6)
    assert result.masks["b"] is None
    np.testing.assert_allclose(result.batch_stats["mean"], [2.0], rtol=1e-6)
    assert (int(result.batch_stats["n"]), result.batch_stats["n"].dtype) == (107, jnp.int32)
    moved = superpose(members[:2], average="cima", beta=0.75)
    assert moved.params["b"].tolist() == [1.75, 0.0]
    assert moved.batch_stats["mean"].tolist() == [1.75]
    assert superpose(members[:2], weights=[2, 1]).params["b"].tolist() == [2.0, 0.0]


def test_a_filter_chooses_among_plain_params():
    params = {"embedding": jnp.asarray([[1.0, 0.0]]), "kernel": jnp.asarray([[3.0, 0.0]])}
    result = superpose([params], filter_fn=lambda path, leaf: path == "kernel")
    assert result.masks["embedding"] is None
    assert result.masks["kernel"].tolist() == [[True, False]]


@pytest.mark.parametrize("average", ["cia", "caa", "cima"])
def test_folding_by_hand_in_one_scan_is_superpose(average):
    members = [as_ticket(m, mean=jnp.asarray([float(i)])) for i, m in enumerate([ONE, TWO, THREE])]
    beta = {"beta": 0.25} if average == "cima" else {}
    rule = make_superposition(average, density=0.5, **beta)
    start = jax.jit(rule.init)(members[0])
    rest = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members[1:])
    state, _ = jax.lax.scan(lambda s, ticket: (rule.fold(s, ticket), None), start, rest)
    result = rule.result(state)
    expected = superpose(members, average=average, density=0.5, beta=0.25)
    np.testing.assert_allclose(rows(result)[0], rows(expected)[0], rtol=1e-6)
    np.testing.assert_allclose(result.batch_stats["mean"], expected.batch_stats["mean"], rtol=1e-6)
    assert state.members == 3


def test_a_traced_count_compiles_once():
    traces = []

    @jax.jit
    def step(running, ticket, count):
        traces.append(count)
        return superpose_step(running, ticket, count)

    running = as_ticket(ONE)
    for count, member in enumerate([TWO, THREE], start=1):
        running = step(running, as_ticket(member), count)
    assert len(traces) == 1
    assert rows(running) == rows(superpose([ONE, TWO, THREE]))


def test_one_step_keeps_as_many_weights_as_the_new_ticket_has():
    wide, narrow = as_ticket(net([4, 3, 2, 1])), as_ticket(net([0, 8, 0, 0]))
    assert supjax.count_active(superpose_step(wide, narrow, 1)) == 1
    assert supjax.count_active(superpose_step(narrow, wide, 1)) == 4
    assert supjax.count_active(superpose_step(wide, narrow, 1, scope="layer").masks) == 1


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("average", ["cia", "caa", "cima"])
def test_the_whole_of_superpose_compiles(scope, average):
    members = [as_ticket(m, n=jnp.int32(i)) for i, m in enumerate([ONE, TWO, THREE])]
    function = functools.partial(superpose, scope=scope, average=average)
    np.testing.assert_allclose(
        rows(jax.jit(function)(members))[0], rows(function(members))[0], rtol=1e-6
    )


def test_bfloat16_tickets_stay_bfloat16():
    members = [{"w": jnp.asarray([[1.0, 3.0, 0.0]], jnp.bfloat16)} for _ in range(2)]
    result = fold(members, density=0.34)
    assert result.params["w"].dtype == jnp.bfloat16
    assert result.params["w"].tolist() == [[0.0, 3.0, 0.0]]


WIDE = {"a": jnp.ones((1, 3))}
KNOWN = sorted(supjax.superposition.SUPERPOSITIONS)

BAD = [
    (lambda: superpose([]), "superpose needs at least one ticket, got none"),
    (lambda: superpose(()), "superpose needs at least one ticket, got none"),
    (lambda: superpose([ONE, WIDE]), "ticket 1 differs from the first in params at 'a': "),
    (lambda: superpose([ONE, {"b": ONE["a"]}]), "ticket 1 differs from the first in params at 'a'"),
    (
        lambda: superpose([as_ticket(ONE, mean=1.0), as_ticket(ONE)]),
        "ticket 1 differs from the first in batch_stats at 'mean': no leaf instead of ()",
    ),
    (
        lambda: superpose([as_ticket(ONE), Ticket(ONE, {"a": None})]),
        "ticket 1 has no sparse weight to prune",
    ),
    (lambda: superpose([{"bias": jnp.ones(3)}]), "ticket 0 has no sparse weight to prune"),
    (
        lambda: superpose([Ticket(ONE, {"a": jnp.ones((1, 3), bool)})]),
        "mask at 'a' has shape (1, 3), params have (1, 4)",
    ),
    (lambda: superpose([ONE], density=0), "density must be in (0, 1], got 0"),
    (lambda: superpose([ONE], density=1.5), "density must be in (0, 1], got 1.5"),
    (lambda: superpose([ONE], average="mean"), f"average must be one of {KNOWN}, got 'mean'"),
    (lambda: superpose([ONE], scope="net"), "scope must be one of ['global', 'layer'], got 'net'"),
    (lambda: superpose([ONE], beta=1.1), "beta must be in [0, 1], got 1.1"),
    (lambda: superpose([ONE], weights=[1, 2]), "weights must be 1 positive numbers, got [1, 2]"),
    (lambda: superpose([ONE], weights=[-1]), "weights must be 1 positive numbers, got [-1]"),
    (lambda: superpose([ONE], weights=[0]), "weights must be 1 positive numbers, got [0]"),
    (lambda: superpose([ONE], weights=[jnp.inf]), "weights must be 1 positive numbers, got [inf]"),
    (
        lambda: superpose([ONE], weights=[1], average="cima"),
        "weights do not go with average='cima': its members have none",
    ),
    (
        lambda: superpose({"a": jnp.ones((2, 1, 3)), "b": jnp.ones((3, 4))}),
        "stacked tickets need one common leading axis in all leaves, got lengths [2, 3]",
    ),
    (
        lambda: superpose({"a": jnp.ones((2, 1, 3)), "b": jnp.ones(())}),
        "stacked tickets need one common leading axis in all leaves, got lengths ['none', 2]",
    ),
    (
        lambda: superpose_step(as_ticket(ONE), as_ticket(TWO), 1, average="caa"),
        "active= goes with the rules that have it, such as 'caa', and they need it",
    ),
    (
        lambda: superpose_step(as_ticket(ONE), as_ticket(TWO), 1, active={"a": ONE["a"]}),
        "active= goes with the rules that have it, such as 'caa', and they need it",
    ),
    (
        lambda: superpose_step(as_ticket(ONE), as_ticket(TWO), 1, weight=-1),
        "weight must be a positive number, got -1",
    ),
    (
        lambda: superpose_step(as_ticket(ONE), as_ticket(WIDE), 1),
        "ticket differs from the first in params at 'a': (1, 3) instead of (1, 4)",
    ),
    (
        lambda: superpose_step(as_ticket(ONE), as_ticket(TWO), 1, density=0.0),
        "density must be in (0, 1], got 0.0",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_refusals_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as refusal:
        call()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"k": jnp.ones((1, 2)), "steps": jnp.ones(2, int)},
            "tickets must hold floating-point weights, got int32 at 'steps' of ticket 0",
        ),
        ({"k": [[1.0, 2.0]]}, "params must be arrays, got float at 'k/0/0'"),
    ],
)
def test_weights_must_be_floating_point_arrays(params, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        superpose([params])
