"""One network, two dense layers around a batch norm, as several frameworks hold it.

Equinox and Haiku are no dependency: their trees are built by hand as they build them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from tests.helpers.norm_nets import haiku_average

INPUTS, HIDDEN, CLASSES = 6, 8, 4
MOMENTUM = 0.9


class Network(NamedTuple):
    """The network as a framework holds it.

    Attributes:
      params: its weights.
      stats: its batch-norm statistics; all means are leaves before all variances.
      apply_fn: `(variables, x) -> (logits, {"batch_stats": ...})` in training.
      first_layer: `params -> (kernel, bias)` of the layer before the norm.
    """

    params: Any
    stats: Any
    apply_fn: Callable[[Any, Any], Any]
    first_layer: Callable[[Any], tuple[Any, Any]]


class LinenNet(nn.Module):
    """The network in linen."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Return logits."""
        x = nn.Dense(HIDDEN, name="first")(x)
        x = nn.BatchNorm(use_running_average=False, momentum=MOMENTUM, name="norm")(x)
        return nn.Dense(CLASSES, use_bias=False, name="last")(nn.relu(x))


class NnxNet(nnx.Module):
    """The network in nnx."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(INPUTS, HIDDEN, rngs=rngs)
        self.norm = nnx.BatchNorm(HIDDEN, momentum=MOMENTUM, rngs=rngs)
        self.last = nnx.Linear(HIDDEN, CLASSES, use_bias=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """Return logits."""
        return self.last(nnx.relu(self.norm(self.first(x))))


@jax.tree_util.register_pytree_with_keys_class
class Module:
    """As Equinox's modules: fields by name, `None` where something else than an array was."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def tree_flatten_with_keys(self) -> Any:
        """Return the fields."""
        names = tuple(vars(self))
        return [(jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names], names

    @classmethod
    def tree_unflatten(cls, names: Any, children: Any) -> "Module":
        """Return a module with these fields."""
        made = object.__new__(cls)
        vars(made).update(zip(names, children, strict=True))
        return made


class Weights(NamedTuple):
    """The weights as a tuple."""

    first: Any
    bias: Any
    last: Any


class Moments(NamedTuple):
    """The statistics as a tuple."""

    mean: Any
    var: Any


def _arrays() -> tuple[jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0))
    first = 0.4 * jax.random.normal(keys[0], (INPUTS, HIDDEN))
    return first, jnp.zeros(HIDDEN), 0.4 * jax.random.normal(keys[1], (HIDDEN, CLASSES))


def _moments() -> tuple[jax.Array, jax.Array]:
    return jnp.zeros(HIDDEN), jnp.ones(HIDDEN)


def _normed(h: Any) -> tuple[Any, tuple[Any, Any]]:
    mean, var = h.mean(0), h.var(0)
    return (h - mean[None]) * jax.lax.rsqrt(var + 1e-5)[None], (mean, var)


def _plain(
    params: Any, stats: Any, weights: Callable[[Any], Any], moments: Callable[[Any], Any], pack: Any
) -> Network:
    """Return the network over trees of one's own; `weights` and `moments` read them."""

    def apply_fn(variables: Any, x: Any) -> Any:
        first, bias, last = weights(variables["params"])
        h, now = _normed(x @ first + bias[None])
        old = moments(variables["batch_stats"])
        new = [MOMENTUM * a + (1 - MOMENTUM) * b for a, b in zip(old, now, strict=True)]
        return jax.nn.relu(h) @ last, {"batch_stats": pack(*new)}

    return Network(params, stats, apply_fn, lambda tree: weights(tree)[:2])


def _first_of_flax(params: Any) -> tuple[Any, Any]:
    kernel, bias = (params["first"][name] for name in ("kernel", "bias"))
    return jnp.asarray(kernel), jnp.asarray(bias)


def linen_network() -> Network:
    """Return linen's collections."""
    model = LinenNet()
    variables = model.init(jax.random.key(0), jnp.ones((2, INPUTS)))

    def apply_fn(variables: Any, x: Any) -> Any:
        return model.apply(variables, x, mutable=["batch_stats"])

    return Network(variables["params"], variables["batch_stats"], apply_fn, _first_of_flax)


def nnx_network() -> Network:
    """Return the states that `nnx.split` gives."""
    graph, params, stats, rest = nnx.split(NnxNet(nnx.Rngs(0)), nnx.Param, nnx.BatchStat, ...)

    def apply_fn(variables: Any, x: Any) -> Any:
        own = variables["params"], variables["batch_stats"]
        model = nnx.merge(graph, *own, rest, copy=True)
        logits = model(x)
        return logits, {"batch_stats": nnx.state(model, nnx.BatchStat)}

    return Network(params, stats, apply_fn, _first_of_flax)


def equinox_network() -> Network:
    """Return a tree as `eqx.partition(model, eqx.is_array)` gives it, output axis first."""
    first, bias, last = _arrays()
    mean, var = _moments()
    params = Module(
        layers=[
            Module(weight=first.T, bias=bias, in_features=None),
            Module(weight=last.T, bias=None, in_features=None),
        ],
        activation=None,
    )

    def weights(tree: Any) -> Any:
        one, two = tree.layers
        return one.weight.T, one.bias, two.weight.T

    stats = Module(mean=mean, var=var, axis_name=None)
    return _plain(
        params,
        stats,
        weights,
        lambda tree: (tree.mean, tree.var),
        lambda mean, var: Module(mean=mean, var=var, axis_name=None),
    )


def haiku_network() -> Network:
    """Return dicts as `hk.transform_with_state` gives them."""
    first, bias, last = _arrays()
    params = {"net/~/linear": {"w": first, "b": bias}, "net/~/linear_1": {"w": last}}
    names = [f"net/~/batch_norm/~/{name}_ema" for name in ("mean", "var")]
    zeros = jnp.zeros(HIDDEN)
    stats = {name: {"hidden": zeros, "average": zeros, "counter": jnp.int32(0)} for name in names}

    def apply_fn(variables: Any, x: Any) -> Any:
        tree, old = variables["params"], variables["batch_stats"]
        h, now = _normed(x @ tree["net/~/linear"]["w"] + tree["net/~/linear"]["b"][None])
        new = {
            name: haiku_average(old[name], moment, MOMENTUM)
            for name, moment in zip(names, now, strict=True)
        }
        return jax.nn.relu(h) @ tree["net/~/linear_1"]["w"], {"batch_stats": new}

    def first_layer(tree: Any) -> tuple[Any, Any]:
        return tree["net/~/linear"]["w"], tree["net/~/linear"]["b"]

    return Network(params, stats, apply_fn, first_layer)


def dict_network() -> Network:
    """Return plain dicts."""
    params = dict(zip(Weights._fields, _arrays(), strict=True))
    stats = dict(zip(Moments._fields, _moments(), strict=True))
    return _plain(
        params,
        stats,
        lambda tree: (tree["first"], tree["bias"], tree["last"]),
        lambda tree: (tree["mean"], tree["var"]),
        lambda mean, var: {"mean": mean, "var": var},
    )


def list_network() -> Network:
    """Return plain lists."""
    return _plain(list(_arrays()), list(_moments()), tuple, tuple, lambda *new: list(new))


def tuple_network() -> Network:
    """Return NamedTuples."""
    return _plain(Weights(*_arrays()), Moments(*_moments()), tuple, tuple, Moments)


NETWORKS: dict[str, Callable[[], Network]] = {
    "linen": linen_network,
    "nnx split": nnx_network,
    "Equinox": equinox_network,
    "Haiku": haiku_network,
    "dict": dict_network,
    "list": list_network,
    "NamedTuple": tuple_network,
}
"""Name -> function that makes the network. `nnx.Optimizer` holds a model itself: `NnxNet`."""
