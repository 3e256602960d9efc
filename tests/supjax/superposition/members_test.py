"""What `superpose` takes: every collection, every form of a member, and clear refusals."""

import collections
import re
import warnings
from types import SimpleNamespace

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state
from hypothesis import given, settings
from hypothesis import strategies as st

import supjax
from supjax import Ticket, superpose
from supjax.trees import named_leaves
from tests.helpers.strategies import rewrapped, ticket_lists


def ticket(*row, dtype=jnp.float32, **stats):
    kernel = jnp.asarray([row], dtype)
    params = {"kernel": kernel, "bias": jnp.ones(2, dtype)}
    return Ticket(params, {"kernel": kernel != 0, "bias": None}, stats)


TICKETS = [ticket(4, -2, 0, 0), ticket(2, 0, 3, 0), ticket(0, 0, 2, -9)]
PARAMS = [t.params for t in TICKETS[:2]]
THIRD = {"kernel": jnp.asarray([[0, 5.0, 2, 0]]), "bias": jnp.ones(2)}
EXPECTED = superpose(TICKETS)


def assert_same(found, expected=EXPECTED):
    for ours, theirs in zip(found, expected, strict=True):
        assert named_leaves(ours).keys() == named_leaves(theirs).keys()
        jax.tree.map(np.testing.assert_array_equal, named_leaves(ours), named_leaves(theirs))


class Custom:
    """A collection of somebody's own."""

    def __iter__(self):
        return iter(TICKETS)


@pytest.mark.parametrize(
    "given",
    [
        TICKETS,
        tuple(TICKETS),
        iter(TICKETS),
        (t for t in TICKETS),
        map(Ticket._make, TICKETS),
        collections.deque(TICKETS),
        dict(zip("cab", TICKETS, strict=True)).values(),
        dict(zip("cab", TICKETS, strict=True)),  # in the order of the dict, not of its keys
        collections.OrderedDict(enumerate(TICKETS)),
        reversed([TICKETS[2], TICKETS[1], TICKETS[0]]),
        Custom(),
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *TICKETS),
    ],
    ids=lambda given: type(given).__name__,
)
def test_every_collection_holds_the_same_members(given):
    assert_same(superpose(given))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The tickets as files; strings and paths."""
    folder = tmp_path_factory.mktemp("tickets")
    paths = [folder / f"{i}.npz" for i in range(3)]
    for path, one in zip(paths, TICKETS, strict=True):
        supjax.save_ticket(path, one)
    return [str(paths[0]), *paths[1:]]


def test_files_are_members(files):
    assert_same(superpose(files))
    assert_same(superpose({"first": files[0], "second": TICKETS[1], "third": files[2]}))


def flax_state(one):
    """What flax's own TrainState holds after an update by a sparse optimizer."""
    topology = supjax.make_topology("static", density=0.5)
    tx = optax.chain(optax.clip(1.0), supjax.sparsify(optax.sgd(0.1), topology, jax.random.key(0)))
    state = train_state.TrainState.create(apply_fn=None, params=one.params, tx=tx)
    masks = state.opt_state[1].topology._replace(masks=one.masks)
    inner = state.opt_state[1]._replace(topology=masks)
    return state.replace(opt_state=(state.opt_state[0], inner))


def own_state(one):
    topology = supjax.make_topology("static", density=0.5)
    state = supjax.create_train_state(jax.random.key(0), one.params, optax.sgd(0.1), topology)
    return state._replace(
        params=one.params, topology=state.topology._replace(masks=one.masks), batch_stats={}
    )


@pytest.mark.parametrize(
    "form",
    [
        flax_state,
        own_state,
        supjax.make_superposition("cia").init,
        lambda t: jax.tree.map(np.asarray, t),
        lambda t: SimpleNamespace(params=t.params, opt_state=flax_state(t).opt_state),
        lambda t: Ticket(flax.core.freeze(t.params), nnx.State(t.masks)),
    ],
    ids=["flax", "TrainState", "SuperpositionState", "numpy", "namespace", "mixed nodes"],
)
def test_every_form_of_a_member(form):
    assert_same(superpose([form(t) for t in TICKETS]))
    assert_same(superpose([TICKETS[0], form(TICKETS[1]), TICKETS[2]]))
    assert_same(superpose(dict(enumerate(map(form, TICKETS)))))


def test_masks_in_a_training_state_keep_weights_that_are_still_zero():
    grown = [t._replace(masks={**t.masks, "kernel": jnp.ones((1, 4), bool)}) for t in TICKETS]
    found = superpose([flax_state(t) for t in grown])
    assert_same(found, superpose(grown))
    assert supjax.count_active(found.masks) == 4


def test_a_training_state_without_a_sparse_optimizer_is_plain_params():
    states = [
        train_state.TrainState.create(apply_fn=None, params=p, tx=optax.sgd(0.1)) for p in PARAMS
    ]
    assert_same(superpose(states), superpose(PARAMS))


@settings(max_examples=12)
@given(ticket_lists(3), st.data())
def test_members_meet_by_path_and_the_first_gives_the_nodes(tickets, data):
    others = [Ticket(*(data.draw(rewrapped(tree)) for tree in t)) for t in tickets]
    found, expected = superpose(others), superpose(tickets)
    assert_same(found, expected)
    assert jax.tree.structure(found.params) == jax.tree.structure(others[0].params)
    assert jax.tree.structure(found.batch_stats) == jax.tree.structure(others[0].batch_stats)
    jax.tree.map(lambda w, m: None, found.params, found.masks)  # hang on the same nodes


@settings(max_examples=8)
@given(ticket_lists(2), st.data())
def test_a_fold_meets_other_nodes_too(tickets, data):
    first, second = (Ticket(*(data.draw(rewrapped(tree)) for tree in t)) for t in tickets)
    expected = superpose(tickets)
    assert_same(supjax.superpose_step(first, second, 1), expected)
    rule = supjax.make_superposition("caa")
    state = jax.jit(rule.fold)(jax.jit(rule.init)(first), second)
    assert_same(rule.result(state), superpose(tickets, average="caa"))


@settings(max_examples=12)
@given(ticket_lists(2), st.data())
def test_params_may_hold_none(tickets, data):
    """As Equinox gives them: `None` where a leaf is no array."""
    holed = [Ticket([t.params, None], [t.masks, None], t.batch_stats) for t in tickets]
    found = superpose(holed)
    assert found.params[1] is None
    assert_same(Ticket(found.params[0], found.masks[0], found.batch_stats), superpose(tickets))


def test_members_on_several_devices_come_to_the_first_ones():
    devices = jax.devices()
    spread = [
        jax.device_put(t, device)
        for t, device in zip(TICKETS, (devices[2], devices[0], devices[1]), strict=True)
    ]
    found = superpose(spread)
    assert_same(found)
    assert {leaf.device for leaf in jax.tree.leaves(found)} == {devices[2]}
    assert_same(
        superpose([TICKETS[0], *spread[:1], TICKETS[2]]), superpose([*TICKETS[:1] * 2, TICKETS[2]])
    )


def test_members_join_a_sharded_first_one():
    mesh = jax.make_mesh((4,), ("x",))
    split = jax.sharding.NamedSharding(mesh, jax.P(None, "x"))
    first = TICKETS[0]
    kernel = jax.device_put(first.params["kernel"], split)
    sharded = first._replace(params={**first.params, "kernel": kernel})
    members = [sharded, jax.device_put(TICKETS[1], jax.devices()[3]), TICKETS[2]]
    found = superpose(members)
    assert_same(found)
    assert found.params["kernel"].sharding.device_set == set(jax.devices())


# Which leaves of plain params are sparse


def plain(seed, dense=(), full=()):
    """Params of three kernels with eight of sixteen weights each, but for some."""
    rng = np.random.RandomState(seed)
    tree = {}
    for name in ("body", "head", "stem"):
        kernel = 1.0 + rng.rand(4, 4)
        if name not in dense:
            kernel *= rng.permutation(16).reshape(4, 4) < 8
        tree[name] = {"kernel": jnp.asarray(kernel, jnp.float32)}
    return tree


def test_what_is_dense_in_all_members_stays_dense():
    members = [plain(seed, dense=["head"]) for seed in range(3)]
    found = superpose(members)
    assert found.masks["head"]["kernel"] is None
    assert supjax.count_active(found.masks) == 16
    assert int(jnp.sum(found.params["head"]["kernel"] != 0)) == 16
    one_is_sparse = [*members[:2], plain(2)]
    with pytest.warns(UserWarning, match=r"have \[32, 32, 24\] of 48"):
        found = superpose(one_is_sparse)
    assert found.masks["head"]["kernel"] is not None


def test_a_filter_overrides_what_is_dense():
    members = [plain(seed, dense=["head"]) for seed in range(3)]
    found = superpose(members, filter_fn=lambda path, leaf: path != "stem/kernel")
    assert found.masks["stem"]["kernel"] is None
    assert found.masks["head"]["kernel"].shape == (4, 4)
    assert supjax.count_active(found.masks) == 16 + 8


def test_dense_networks_are_pruned_to_the_density_that_is_asked_for():
    members = [plain(seed, dense=["body", "head", "stem"]) for seed in range(2)]
    assert supjax.density(superpose(members, density=0.25).masks) == 0.25
    assert supjax.density(superpose(members).masks) == 1


def test_tickets_say_what_is_sparse_in_the_plain_params_beside_them():
    members = [plain(seed) for seed in range(2)]
    masks = {**supjax.nonzero_masks(members[0]), "stem": {"kernel": None}}
    found = superpose([members[1], Ticket(members[0], masks)])
    assert found.masks["stem"]["kernel"] is None
    assert supjax.count_active(found.masks) == 16


def test_under_jit_the_filter_alone_decides():
    members = [plain(seed, dense=["head"]) for seed in range(2)]
    found = jax.jit(superpose)(members)
    assert found.masks["head"]["kernel"] is not None
    assert supjax.count_active(found.masks) == 32


@pytest.mark.parametrize(
    ("members", "density", "told"),
    [
        (PARAMS, None, None),
        (PARAMS, 0.5, None),
        ([*PARAMS, {**THIRD, "kernel": THIRD["kernel"] * jnp.array([[0.0, 0, 1, 0]])}], None,
         "have [2, 2, 1] of 4: weights just grown"),
        (PARAMS, 0.75, "have [2, 2] of 4 where density=0.75 asks for 3: weights just grown"),
        (PARAMS, 0.25, "have [2, 2] of 4 where density=0.25 asks for 1: weights just grown"),
        ([PARAMS[0], ticket(1, 1, 1, 0)], None, "have [2, 3] of 4: weights just grown"),
        ([ticket(1, 0, 0, 0), ticket(1, 1, 1, 0)], 0.5, None),  # tickets know what they have
    ],
)  # fmt: skip
def test_a_warning_says_where_counts_of_plain_params_differ(members, density, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        superpose(members, density=density)
    assert [w.category for w in caught] == ([UserWarning] if told else [])
    if told:
        assert told in str(caught[0].message)
        assert "\n" not in str(caught[0].message)
        assert caught[0].filename == __file__


WANTED = "pass a list of tickets, params or ticket files; "
CONVOLUTION = {"kernel": jnp.ones((3, 3, 2)), "bias": jnp.ones(3)}
BAD = [
    (lambda: superpose(3), TypeError, WANTED + "got int"),
    (lambda: superpose(None), TypeError, WANTED + "got NoneType"),
    (lambda: superpose(object()), TypeError, WANTED + "got object"),
    (lambda: superpose("ticket.npz"), TypeError, WANTED + "got str"),
    (lambda: superpose({"a": {"b": 2}}), TypeError, WANTED + "got int at 'a/b'"),
    (lambda: superpose([3]), TypeError, WANTED + "ticket 0 is int"),
    (lambda: superpose([TICKETS[0], None]), TypeError, WANTED + "ticket 1 is NoneType"),
    (lambda: superpose([PARAMS[0], {"kernel": [[1.0]], "bias": 1.0}]), TypeError,
     "params must be arrays, got float at 'bias'"),
    (lambda: superpose([flax_state(TICKETS[0]).opt_state]), TypeError,
     "ticket 0 is an optimizer state, which holds no weights: pass a list of"),
    (lambda: superpose(["no/such.npz"]), OSError, "[Errno 2] No such file"),
    (lambda: superpose([__file__]), ValueError, f"{__file__} is no readable ticket"),
    (lambda: superpose({}), ValueError, "superpose needs at least one ticket, got none"),
    (lambda: superpose(iter([])), ValueError, "superpose needs at least one ticket, got none"),
    (lambda: superpose([TICKETS[0], ticket(1, 2, 0, 0, dtype=jnp.bfloat16)]), ValueError,
     "ticket 1 differs from the first in params at 'bias': bfloat16 instead of float32"),
    (lambda: superpose([TICKETS[0], jax.tree.map(np.float64, TICKETS[1].params)]), ValueError,
     "ticket 1 differs from the first in params at 'bias': float64 instead of float32"),
    (lambda: superpose([ticket(1, 0, n=jnp.int32(1)), ticket(1, 0, n=jnp.float32(1))]), ValueError,
     "ticket 1 differs from the first in batch_stats at 'n': float32 instead of int32"),
    (lambda: superpose({"seed 1": TICKETS[0], "seed 2": ticket(1, 1)}), ValueError,
     "ticket 'seed 2' differs from the first in params at 'kernel': (1, 2) instead of (1, 4)"),
    (lambda: superpose([TICKETS[0], TICKETS[1]._replace(masks={"kernel": None})]), ValueError,
     "params and masks differ: masks have no leaf at 'bias'"),
    (lambda: superpose({"a": CONVOLUTION, "b": CONVOLUTION}), ValueError,
     "a dict of 2 equal trees, all leaves of which have one leading axis, may hold members or be"),
    (lambda: supjax.superpose_step(TICKETS[0], ticket(1, 0, 0, 0, dtype=jnp.bfloat16), 1),
     ValueError, "ticket differs from the first in params at 'bias': bfloat16 instead of float32"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[row[-1][:40] for row in BAD])
def test_refusals_are_one_clear_line(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}") as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_a_dict_is_members_or_a_stack_by_its_shapes():
    members = {"a": PARAMS[0], "b": PARAMS[1]}  # leading axes 1 and 2: no stack
    assert_same(superpose(members), superpose(PARAMS))
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *PARAMS)
    assert_same(superpose(stack), superpose(PARAMS))
    layers = {"one": stack, "two": {"kernel": stack["kernel"]}}  # unequal values: a stack
    by_hand = [{"one": p, "two": {"kernel": p["kernel"]}} for p in PARAMS]
    assert_same(superpose(layers), superpose(by_hand))
