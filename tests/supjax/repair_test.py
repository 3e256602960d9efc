"""REPAIR: by hand, on trained networks, and through every framework's layers."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import supjax
from supjax import Ticket
from supjax.repair import LARGEST_FACTOR, repair

SIZES = (16, 32, 32, 4)
LAYERS = ("first", "middle", "last")  # whose order is not that of the alphabet


def relu_net(variables, x):
    """The pre-activations of three layers."""
    found = {}
    for name in LAYERS:
        layer = variables["params"][name]
        x = found[f"{name}/kernel"] = x @ layer["kernel"] + layer["bias"][None]
        x = jax.nn.relu(x)
    return found


def draw_params(key):
    keys = jax.random.split(key, len(LAYERS))
    pairs = itertools.pairwise(SIZES)
    return {
        name: {
            "kernel": jax.random.normal(key, pair) * (2 / pair[0]) ** 0.5,
            "bias": jnp.zeros(pair[1]),
        }
        for name, key, pair in zip(LAYERS, keys, pairs, strict=True)
    }


def examples(key, count=256):
    """Inputs, and labels by a random teacher that is not linear."""
    x = jax.random.normal(key, (count, SIZES[0]))
    first, second = jax.random.normal(jax.random.key(9), (2, SIZES[0], SIZES[-1]))
    return x, jnp.argmax(jnp.abs(x @ first) - jnp.abs(x @ second), axis=1)


def mean_loss(params, batch):
    logits = relu_net({"params": params}, batch[0])["last/kernel"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


@functools.cache
def trained():
    """Three sparse networks that left the same one at a high rate, and their superposition."""
    tx = optax.adam(0.03)

    @jax.jit
    def train(params, key):
        def step(carry, key):
            params, state = carry
            updates, state = tx.update(jax.grad(mean_loss)(params, examples(key)), state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(key, 200)
        return jax.lax.scan(step, (params, tx.init(params)), keys)[0][0]

    def sparse(params):
        kernels = {
            name: {"kernel": jnp.abs(params[name]["kernel"]), "bias": None} for name in params
        }
        masks = supjax.global_top_k_masks(kernels, 800)
        return Ticket(supjax.apply_masks(params, masks), masks)

    start = train(draw_params(jax.random.key(0)), jax.random.key(1))
    tickets = [sparse(train(start, jax.random.key(2 + i))) for i in range(3)]
    return tickets, supjax.superpose(tickets)


def batches(count=4):
    return [examples(jax.random.key(100 + i))[0] for i in range(count)]


def moments(ticket, x):
    found = relu_net({"params": ticket.params}, x)
    return {path: (z.mean(0), z.std(0)) for path, z in found.items()}


def test_one_batch_gives_every_channel_the_members_mean_and_deviation():
    tickets, superposed = trained()
    (x,) = batches(1)
    mended = moments(repair(relu_net, tickets, superposed, [x]), x)
    before, members = moments(superposed, x), [moments(ticket, x) for ticket in tickets]
    for path, (mean, deviation) in mended.items():
        wanted_mean, wanted = (sum(m[path][i] for m in members) / 3 for i in (0, 1))
        np.testing.assert_allclose(mean, wanted_mean, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(deviation, wanted, rtol=1e-3, atol=1e-4)
        assert float(abs(before[path][1] - wanted).max()) > 0.05  # there was something to mend


def test_the_loss_of_a_diverse_superposition_falls_and_its_deviation_rises():
    tickets, superposed = trained()
    mended = repair(relu_net, tickets, superposed, batches())
    held_out = examples(jax.random.key(77), 2000)
    losses = [float(mean_loss(ticket.params, held_out)) for ticket in (superposed, mended)]
    assert losses[1] < 0.97 * losses[0]
    wide = [
        moments(ticket, held_out[0])["last/kernel"][1].mean() for ticket in (superposed, mended)
    ]
    assert wide[1] > wide[0]


def test_pruned_places_stay_zero_and_masks_stay():
    tickets, superposed = trained()
    mended = repair(relu_net, tickets, superposed, batches())
    jax.tree.map(np.testing.assert_array_equal, mended.masks, superposed.masks)
    nonzero = supjax.nonzero_masks(mended.params, lambda path, leaf: leaf.ndim > 1)
    jax.tree.map(np.testing.assert_array_equal, nonzero, superposed.masks)


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_network_that_needs_no_repair_is_left_alone(copies):
    ticket = trained()[0][0]
    mended = repair(relu_net, [ticket] * copies, ticket, batches(3))
    for ours, theirs in zip(
        jax.tree.leaves(mended.params), jax.tree.leaves(ticket.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_share_of_one_gives_that_members_moments():
    tickets, superposed = trained()
    (x,) = batches(1)
    mended = repair(relu_net, tickets, superposed, [x], shares=[0.0, 1.0, 0.0])
    found, wanted = moments(mended, x), moments(tickets[1], x)
    np.testing.assert_allclose(found["last/kernel"][1], wanted["last/kernel"][1], rtol=1e-3)


def affine(variables, x):
    layer = variables["params"]
    z = x @ layer["w"]
    return {"w": z + layer["b"][None] if "b" in layer else z}


def column(weight, bias=None):
    params = {"w": jnp.array([[weight]])} | ({} if bias is None else {"b": jnp.array([bias])})
    return Ticket(params, dict.fromkeys(params))


@pytest.mark.parametrize(
    ("members", "result", "batches", "weight", "bias"),
    [
        # deviation 3 and 1 on (-1, 1), means 0 and 4; the result has 1 and -2
        ([(3.0, 0.0), (1.0, 4.0)], (1.0, -2.0), [[-1.0, 1.0]], 2.0, 2.0),
        ([(3.0, None), (1.0, None)], (-1.0, None), [[-1.0, 1.0]], -2.0, None),
        # a channel that does not vary, and one whose members do not
        ([(3.0, 1.0)], (0.0, 0.0), [[-1.0, 1.0]], 0.0, 1.0),
        ([(0.0, 1.0)], (3.0, 0.0), [[-1.0, 1.0]], 3.0, 1.0),
        # ten times too small and too large: four times is the most
        ([(10.0, 0.0)], (1.0, 0.0), [[-1.0, 1.0]], LARGEST_FACTOR, 0.0),
        ([(1.0, 0.0)], (10.0, 0.0), [[-1.0, 1.0]], 10 / LARGEST_FACTOR, 0.0),
        # two batches that agree shrink nothing
        ([(2.0, 0.0)], (1.0, 0.0), [[-1.0, 1.0], [-3.0, 3.0]], 2.0, 0.0),
    ],
)
def test_a_channel_by_hand(members, result, batches, weight, bias):
    data = [jnp.array(batch)[:, None] for batch in batches]
    mended = repair(affine, [column(*m) for m in members], column(*result), data).params
    np.testing.assert_allclose(mended["w"], [[weight]], rtol=1e-6)
    assert ("b" in mended) == (bias is not None)
    if bias is not None:
        np.testing.assert_allclose(mended["b"], [bias], atol=1e-6)


def test_a_change_on_which_batches_do_not_agree_is_shrunk():
    # shifts of 1 and 3: x = 2, standard error 1, so v = 2 * 4 / (4 + 1); both scale by nothing
    def apply_fn(variables, x):
        layer = variables["params"]
        return {"w": x[:, :1] @ layer["w"] + layer["b"][None] * x[:, 1:]}

    data = [jnp.array([[-1.0, shift], [1.0, shift]]) for shift in (1.0, 3.0)]
    mended = repair(apply_fn, [column(1.0, 1.0)], column(1.0, 0.0), data).params
    ratio = np.log(np.sqrt(2.0))  # all deviations over both batches: 1 and sqrt(1 + 1)
    np.testing.assert_allclose(np.log(mended["w"]), [[ratio]], rtol=1e-5)
    np.testing.assert_allclose(mended["b"], [1.6], rtol=1e-5)


class LinenNet(nn.Module):
    """A convolution and two dense layers, one of which is called twice."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), name="zconv")(x)).mean((1, 2))
        again = nn.Dense(6, name="again")
        return nn.Dense(3, use_bias=False, name="head")(nn.relu(again(nn.relu(again(x)))))


class NnxNet(nnx.Module):
    """The same in nnx."""

    def __init__(self, rngs):
        self.zconv = nnx.Conv(2, 6, (3, 3), rngs=rngs)
        self.again = nnx.Linear(6, 6, rngs=rngs)
        self.head = nnx.Linear(6, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.zconv(x)).mean((1, 2))
        return self.head(nnx.relu(self.again(nnx.relu(self.again(x)))))


def with_leaf(params, path, f):
    return jax.tree_util.tree_map_with_path(
        lambda p, leaf: f(leaf) if path in jax.tree_util.keystr(p, simple=True) else leaf, params
    )


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_flax_layers_are_found_and_mended(framework):
    x = jax.random.normal(jax.random.key(0), (16, 5, 5, 2))
    if framework == "linen":
        model = LinenNet()
        params = model.init(jax.random.key(1), x)["params"]
        apply_fn = supjax.linen_preactivations(model)
    else:
        net = NnxNet(nnx.Rngs(0))
        params, apply_fn = nnx.state(net, nnx.Param), supjax.nnx_preactivations(net)
    member = Ticket(params, supjax.dense_masks(params))
    shrunken = member._replace(params=with_leaf(params, "kernel", lambda w: 0.8 * w))
    variables = {"params": params, "batch_stats": {}}
    shapes = {path: z.shape for path, z in apply_fn(variables, x).items()}
    assert shapes == {
        "zconv/kernel": (16, 5, 5, 6),
        "again/kernel": (32, 6),
        "head/kernel": (16, 3),
    }
    mended = repair(apply_fn, [member], shrunken, [x])
    assert jax.tree.structure(mended.params) == jax.tree.structure(params)
    before, after, wanted = (
        {k: z.reshape(-1, z.shape[-1]).std(0) for k, z in apply_fn(v, x).items()}
        for v in (
            {**variables, "params": shrunken.params},
            {**variables, "params": mended.params},
            variables,
        )
    )
    for path in ("zconv/kernel", "head/kernel"):
        assert not np.allclose(before[path], wanted[path], rtol=1e-2)
        np.testing.assert_allclose(after[path], wanted[path], rtol=1e-4)


def test_kernels_with_their_channels_first_are_scaled_along_them():
    def apply_fn(variables, x):
        layer = variables["params"]
        return {"weight": x @ layer["weight"].T + layer["bias"][None]}

    weight = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    member = Ticket({"weight": weight, "bias": jnp.zeros(2)}, {"weight": None, "bias": None})
    shrunk = weight * jnp.array([[0.5], [0.25]])
    result = member._replace(params={"weight": shrunk, "bias": jnp.zeros(2)})
    x = jax.random.normal(jax.random.key(0), (64, 2))
    mended = repair(apply_fn, [member], result, [x], channels_first=True)
    np.testing.assert_allclose(mended.params["weight"], weight, rtol=1e-4)


WIDE = Ticket({"w": jnp.ones((1, 2)), "b": jnp.ones(1)}, {"w": None, "b": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": []}, "repair needs at least one member, got none"),
        ({"batches": []}, "batches is empty: at least one batch is needed"),
        (
            {"shares": [0.5]},
            "shares must be 1 numbers of at least 0 that add up to 1, got [0.5]",
        ),
        (
            {"apply_fn": lambda variables, x: {"v": x}},
            "apply_fn names 'v', which is no path of a kernel",
        ),
        (
            {"apply_fn": lambda variables, x: {"b": x}},
            "apply_fn names 'b', which is no path of a kernel",
        ),
        (
            {"apply_fn": lambda variables, x: x},
            "apply_fn must return a dict {path of a kernel: pre-activations}",
        ),
        (
            {"apply_fn": lambda variables, x: {"w": jnp.tile(x, (1, 3))}},
            "pre-activations of 'w' have channels (3,), which are not the last axes of the kernel "
            "(1, 1); see channels_first",
        ),
        (
            {
                "members": [
                    Ticket({"w": jnp.ones((1, 2)), "b": jnp.ones(1)}, {"w": None, "b": None})
                ]
            },
            "member 0 differs from the first in params at 'w': (1, 2) instead of (1, 1)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, message):
    given = {"members": [column(1.0, 0.0)], "batches": [jnp.ones((2, 1))], "apply_fn": affine}
    given |= change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        repair(result=column(1.0, 0.0), **given)


def test_a_stack_of_layers_is_refused():
    params = {"up": {"kernel": jnp.ones((3, 2, 4)), "bias": jnp.ones((3, 4))}}
    ticket = Ticket(params, jax.tree.map(lambda leaf: None, params))

    def apply_fn(variables, x):
        return {"up/kernel": jnp.einsum("bi,lio->blo", x, variables["params"]["up"]["kernel"])}

    with pytest.raises(ValueError, match="'up/kernel' holds a stack of them"):
        repair(apply_fn, [ticket], ticket, [jnp.ones((2, 2))])


def test_what_is_not_finite_is_refused():
    bad = column(jnp.nan, 0.0)
    with pytest.raises(ValueError, match=r"^pre-activations of 'w' are infinite or nan$"):
        repair(affine, [bad], column(1.0, 0.0), [jnp.ones((2, 1))])


class Scanned(nn.Module):
    """A stack of two layers between two that stand alone."""

    @nn.compact
    def __call__(self, x):
        stack = nn.scan(
            lambda layer, x, _: (nn.relu(layer(x)), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        x = nn.Dense(4, name="before")(x)
        x, _ = stack(nn.Dense(4, name="stack"), x, None)
        return nn.Dense(3, name="after")(x)


def test_stacks_are_left_as_they_are_and_low_precision_stays():
    model, x = Scanned(), jax.random.normal(jax.random.key(0), (32, 5))
    params = model.init(jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    member = Ticket(params, supjax.dense_masks(params))
    result = member._replace(params=with_leaf(params, "kernel", lambda w: w / 2))
    mended = repair(supjax.linen_preactivations(model), [member], result, [x])
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(mended.params)}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_array_equal(
        mended.params["stack"]["kernel"], result.params["stack"]["kernel"]
    )
    np.testing.assert_allclose(
        mended.params["before"]["kernel"].astype(float),
        params["before"]["kernel"].astype(float),
        rtol=1e-2,
    )
