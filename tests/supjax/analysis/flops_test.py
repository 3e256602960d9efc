"""Operations by hand, through every construct a model may use, and for ResNet-50."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import supjax
from experiments.models.resnet import ImageNetResNet
from supjax.analysis import ACTIVATIONS, forward_flops, layer_flops, total_flops, train_flops
from supjax.topologies import METHODS, make_topology
from supjax.types import TopologyTransform
from tests.helpers.registry import RAMPS, build

W = {"a": jax.ShapeDtypeStruct((4, 4), jnp.float32), "b": jax.ShapeDtypeStruct((4, 3), jnp.float32)}
X = jax.ShapeDtypeStruct((2, 4), jnp.float32)
A, B = 2 * 2 * 4 * 4, 2 * 2 * 4 * 3


@jax.custom_vjp
def straight_through(x, w):
    return jnp.round(x) @ w


straight_through.defvjp(lambda x, w: (x @ w, (x, w)), lambda res, g: (g @ res[1].T, res[0].T @ g))


def scanned(p, x):
    return lax.scan(lambda h, _: (jnp.tanh(h @ p["a"]), h), x, length=5)[0] @ p["b"]


def stacked(p, x):
    """The weights are what the scan runs over; the carry starts as a constant."""
    layers = jnp.stack([p["a"], 2 * p["a"], -p["a"]])
    return lax.scan(lambda h, w: (h @ w + x, ()), jnp.zeros((2, 4)), layers)[0] @ p["b"]


def chosen(p, x):
    h = lax.cond(x.sum() > 0, lambda h: h @ p["a"] @ p["a"], lambda h: h @ p["a"], x)
    return h @ p["b"]


def counted_loop(p, x):
    return lax.fori_loop(0, 3, lambda _, h: h @ p["a"], x) @ p["b"]


def halved(p, x):
    """A loop of unknown length without products."""
    return lax.while_loop(lambda h: h.max() > 1, lambda h: h / 2, x @ p["a"]) @ p["b"]


@pytest.mark.parametrize(
    ("apply_fn", "turns"),
    [
        (lambda p, x: nn.relu(x @ p["a"]) @ p["b"], 1),
        (lambda p, x: jax.jit(lambda h: h @ p["a"])(x) @ p["b"], 1),
        (lambda p, x: jax.checkpoint(lambda w, h: jnp.sin(h @ w))(p["a"], x) @ p["b"], 1),
        (lambda p, x: straight_through(x, p["a"]) @ p["b"], 1),
        (lambda p, x: jax.vmap(lambda v: p["a"].T @ v)(x) @ p["b"], 1),
        (lambda p, x: jnp.einsum("ij,ni->nj", p["a"], x) @ p["b"], 1),
        (
            lambda p, x: (
                (x.astype(jnp.bfloat16) @ p["a"].astype(jnp.bfloat16)).astype(jnp.float32) @ p["b"]
            ),
            1,
        ),
        (lambda p, x: x @ jnp.where(p["a"] > 0, p["a"] - p["a"].mean(), 0) @ p["b"], 1),
        (scanned, 5),
        (stacked, 3),
        (chosen, 2),
        (counted_loop, 3),
        (halved, 1),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_products_belong_to_their_weights(apply_fn, turns):
    assert layer_flops(apply_fn, W, X) == {"a": turns * A, "b": B}


def test_attention_scores_belong_to_no_weight():
    def attend(p, x):
        h = x @ p["a"]
        return jax.nn.softmax(h @ h.T) @ h @ p["b"]

    layers = layer_flops(attend, W, X)
    scores = 2 * 2 * 2 * 4
    assert layers == {"a": A, ACTIVATIONS: 2 * scores, "b": B}
    assert total_flops(layers, {"a": 0.5, "b": 0.0}) == A / 2 + 2 * scores


def test_a_normalised_kernel_belongs_to_the_kernel_not_to_its_gain():
    def apply_fn(p, x):
        return x @ (p["gain"] * p["a"] / jnp.linalg.norm(p["a"])) @ p["b"]

    params = {**W, "gain": jax.ShapeDtypeStruct((1, 4), jnp.float32)}
    assert layer_flops(apply_fn, params, X) == {"a": A, "b": B}


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(6, (3, 3), strides=2, padding=1, name="stem")(x)
        x = nn.relu(nn.BatchNorm(not train, name="bn")(x))
        x = nn.Conv(6, (3, 3), feature_group_count=6, name="depthwise")(x)
        x = nn.Conv(9, (3, 3), feature_group_count=3, padding="VALID", name="grouped")(x)
        x = nn.ConvTranspose(2, (2, 2), strides=(2, 2), name="up")(x)
        return nn.Dense(4, name="head")(x.mean((1, 2)))


@pytest.mark.parametrize("batch", [1, 3])
def test_convolutions_by_hand(batch):
    x = jax.ShapeDtypeStruct((batch, 8, 8, 3), jnp.float32)
    model = Convolutions()
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)

    def apply_fn(params, stats, x):
        variables = {"params": params, "batch_stats": stats}
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    assert layer_flops(apply_fn, variables["params"], variables["batch_stats"], x) == {
        "stem/kernel": batch * 2 * (4 * 4 * 6) * (3 * 3 * 3),
        "depthwise/kernel": batch * 2 * (4 * 4 * 6) * (3 * 3),
        "grouped/kernel": batch * 2 * (2 * 2 * 9) * (3 * 3 * 2),
        "up/kernel": batch * 2 * (2 * 2 * 9) * (2 * 2 * 2),
        "head/kernel": batch * 2 * 2 * 4,
    }


@pytest.fixture(scope="module")
def resnet50():
    """Shapes of the weights, and dense operations by layer, of one 224 x 224 image."""
    model, x = ImageNetResNet(num_classes=1000), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)

    def apply_fn(params, stats, x):
        return model.apply({"params": params, "batch_stats": stats}, x, train=False)

    params = variables["params"]
    return params, layer_flops(apply_fn, params, variables["batch_stats"], x)


def test_resnet50_costs_what_is_published(resnet50):
    params, layers = resnet50
    assert len(layers) == 54
    dense = total_flops(layers)
    assert dense == 8_178_368_512  # RigL's table says 8.2e9
    for sparsity, expected in ((0.8, 0.414), (0.9, 0.242), (0.95, 0.122)):
        share = total_flops(layers, supjax.erk(params, 1 - sparsity)) / dense
        assert round(share, 3) == expected


def test_resnet50_training_costs_what_is_published(resnet50):
    """Yin et al., ImageNet: RigL + Sup at 80 / 90 % trains at 0.42 / 0.25 of the dense cost."""
    params, layers = resnet50
    dense = total_flops(layers)
    for sparsity, expected in ((0.8, 0.42), (0.9, 0.25)):
        sparse = total_flops(layers, supjax.erk(params, 1 - sparsity))
        rigl = make_topology("rigl", density=1 - sparsity, update_every=100)
        share = train_flops(rigl, dense, sparse, total_steps=32_000) / (3 * dense)
        np.testing.assert_allclose(share, expected, atol=0.01)


def test_masks_count_like_their_densities():
    params = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
    masks = {"w": jnp.arange(32).reshape(4, 8) < 8, "b": None}

    def apply_fn(p, x):
        return x @ p["w"] + p["b"]

    x = jnp.ones(4)
    assert forward_flops(apply_fn, params, x) == 64
    assert forward_flops(apply_fn, params, x, densities=masks) == 16
    assert forward_flops(apply_fn, params, x, densities={"w": 0.25, "b": None}) == 16
    empty = {"w": jax.ShapeDtypeStruct((0, 8), jnp.float32), "b": params["b"]}
    nothing = {"w": jnp.zeros((0, 8), bool), "b": None}
    assert forward_flops(apply_fn, empty, jnp.ones(0), densities=nothing) == 0


@pytest.mark.parametrize(
    ("names", "sparse", "expected"),
    [
        (("dense",), 10, 30),
        (("static", "set", "set_itop", "dsr", "mest", "snip", "grasp", "synflow"), 2, 6),
        (("snfs",), 2, 14),
        (("rigl", "rigl_itop"), 2, (3 * 2 * 4 + 2 * 2 + 10) / 5),  # an update every 4 steps
    ],
)
def test_training_by_hand(names, sparse, expected):
    for name in names:
        takes_interval = name not in ("dense", "static", "snip", "grasp", "synflow")
        topology = build(name, **({"update_every": 4} if takes_interval else {}))
        assert train_flops(topology, 10, sparse, total_steps=40) == expected


def test_updates_that_a_run_has_once_or_never():
    rigl = make_topology("rigl", density=0.2, update_every=20)
    assert train_flops(rigl, 10, 2, total_steps=19) == 6
    assert train_flops(rigl, 10, 2, total_steps=20) == (3 * 2 * 20 + 2 * 2 + 10) / 21


def test_a_ramp_costs_its_mean_density():
    def method(*densities):
        ramp = lambda step: densities[step * len(densities) // 400]  # noqa: E731
        return build("static")._replace(density_at=ramp, dense_gradient="always")

    assert train_flops(method(1, 0.5, 0.25, 0.25), 10, 2.5, total_steps=400) == 15
    for name in RAMPS:
        topology = build(name)
        ramp = np.mean([topology.density_at(step) for step in range(100)])
        cost = train_flops(topology, 10, 2.8, total_steps=100)
        np.testing.assert_allclose(cost, 30 * ramp, rtol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_every_registered_method_is_counted(name):
    cost = train_flops(build(name), 10.0, 2.8, total_steps=5000)
    assert 3 * 2.8 <= cost <= 3 * 10


def unheard_of() -> TopologyTransform:
    return build("static")._replace(dense_gradient="sometimes")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: layer_flops(
                lambda p, x: lax.while_loop(lambda h: h.sum() > 1, lambda h: h @ p["a"], x), W, X
            ),
            "a while loop holds a matrix product: how often it turns is unknown",
        ),
        (
            lambda: forward_flops(lambda p, x: x @ p["a"], W, X, densities={"c": 0.5}),
            "densities name a layer that the params lack: 'c'",
        ),
        (
            lambda: train_flops(build("set"), 10, 2, total_steps=0),
            "total_steps must be an integer of at least 1, got 0",
        ),
        (
            lambda: train_flops(unheard_of(), 10, 2, total_steps=9),
            "dense_gradient must be one of ['always', 'never', 'updates'], got 'sometimes'",
        ),
    ],
)
def test_bad_input_ends_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()
