"""Tickets of a tiny network that somebody else has written: what is odd about each, by name."""

import copy
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run.build import build, open_dataset
from supjax.types import PyTree, Ticket
from tests.helpers.tiny_runs import tiny_config

FIELDS = {"model.width": 0.1}
"""What the network of the tickets has besides the fields of `tiny_config`."""

KERNEL, BIAS, MEAN, VAR = "conv1/kernel", "fc/bias", "bn1/mean", "bn1/var"

NAN, INF = float("nan"), float("inf")


@functools.cache
def shapes() -> PyTree:
    """Shapes and types of the network's variables."""
    config = tiny_config(FIELDS)
    return build(config, open_dataset(config)).shapes


def filled(tree: PyTree, value: float = 0.1) -> PyTree:
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), tree)


def good() -> Ticket:
    """A ticket of the network, with half of every kernel."""
    params = filled(shapes()["params"])
    masks = jax.tree.map(
        lambda p: np.arange(p.size).reshape(p.shape) % 2 == 0 if p.ndim > 1 else None, params
    )
    return Ticket(masked(params, masks), masks, filled(shapes()["batch_stats"]))


def masked(params: PyTree, masks: PyTree) -> PyTree:
    return jax.tree.map(
        lambda p, m: p if m is None else np.where(m, p, 0).astype(p.dtype),
        params,
        masks,
        is_leaf=lambda leaf: leaf is None,
    )


def get(tree: PyTree, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree


def put(tree: PyTree, path: str, value: Any) -> PyTree:
    """A tree with another leaf at a path, or with none there."""
    tree = copy.deepcopy(tree)
    *parents, name = path.split("/")
    node = get(tree, "/".join(parents)) if parents else tree
    if value is None:
        del node[name]
    else:
        node[name] = value
    return tree


@functools.cache
def odd_stats() -> dict[str, Ticket]:
    """Tickets whose batch statistics are not those of the network."""
    ticket = good()
    stats = ticket.batch_stats
    mean, var = get(stats, MEAN), get(stats, VAR)
    odd: dict[str, Any] = {
        "no statistics": {},
        "statistics of None": None,
        "a list of statistics": [1.0],
        "a layer without statistics": put(stats, "bn1", None),
        "no variance": put(stats, VAR, None),
        "too many statistics": put(stats, "bn9", {"mean": mean}),
        "statistics of another layer": put(stats, MEAN, np.zeros(999, np.float32)),
        "no axis": put(stats, MEAN, np.float32(0)),
        "an axis more": put(stats, MEAN, mean[None]),
        "integer means": put(stats, MEAN, np.zeros(mean.shape, np.int32)),
        "wide means": put(stats, MEAN, mean.astype(np.float64)),
        "truth as means": put(stats, MEAN, np.zeros(mean.shape, bool)),
        "complex means": put(stats, MEAN, mean.astype(np.complex64)),
        "NaN means": put(stats, MEAN, np.full_like(mean, NAN)),
        "negative variances": put(stats, VAR, -var),
        "infinite variances": put(stats, VAR, np.full_like(var, INF)),
    }
    return {name: ticket._replace(batch_stats=tree) for name, tree in odd.items()}


@functools.cache
def odd_params() -> dict[str, Ticket]:
    """Tickets whose weights are not those of the network, or cannot be used."""
    ticket = good()
    params, masks = ticket.params, ticket.masks
    kernel, mask, bias = get(params, KERNEL), get(masks, KERNEL), get(params, BIAS)

    def replaced(weights: Any, flags: Any = mask) -> Ticket:
        both = put(params, KERNEL, weights), put(masks, KERNEL, flags)
        return Ticket(*both, ticket.batch_stats)

    return {
        "NaN weights": replaced(np.where(mask, NAN, 0).astype(np.float32)),
        "infinite weights": replaced(np.where(mask, INF, 0).astype(np.float32)),
        "a NaN bias": ticket._replace(params=put(params, BIAS, np.full_like(bias, NAN))),
        "wide weights": replaced(kernel.astype(np.float64)),
        "narrow weights": replaced(kernel.astype(jnp.bfloat16)),
        "integer weights": replaced(np.zeros(kernel.shape, np.int32)),
        "truth as weights": replaced(np.zeros(kernel.shape, bool)),
        "complex weights": replaced(kernel.astype(np.complex64)),
        "no kernel": replaced(None, None),
        "a part of a kernel": replaced(kernel[:1], mask[:1]),
        "a kernel on its side": replaced(kernel.T, mask.T),
        "a kernel without axes": replaced(np.float32(1), np.array(True)),
        "an empty kernel": replaced(kernel[:0], mask[:0]),
        "a layer more": ticket._replace(
            params={**params, "fc9": bias}, masks={**masks, "fc9": None}
        ),
        "no weights": Ticket({}, {}, {}),
        "weights in a list": Ticket([params], [masks], ticket.batch_stats),
        "a number as weights": Ticket(np.float32(1), None, {}),
    }


def stored_config(fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """The config as a run stores it, with some fields of any kind at all."""
    config = json.loads(tiny_config(FIELDS).to_json())
    for path, value in (fields or {}).items():
        *parents, name = path.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[name] = value
    return config


@functools.cache
def odd_configs() -> dict[str, Any]:
    """What a ticket's metadata may hold in the place of a config, or None for no config."""
    fields: list[tuple[str, list[Any]]] = [
        ("dataset", [7, None, "nosuch", "../../etc", "a\nb", "mnist"]),
        ("model.name", ["rgl", [], 3]),
        ("model.width", ["big", None, 1e9, NAN, True]),
        ("model.dtype", ["float8", None]),
        ("model", ["vgg16", None, [], {"name": "mlp", "width": "x"}]),
        ("batch_size", [0, "128", 1.5, 10**9]),
        ("epochs", [1e300, True, -1]),
        ("sparsity", [None, 2, "x", NAN]),
        ("method", [[], "none", None]),
        ("topology", [[], 1]),
        ("topology.options", [{"a": {"b": 1}}, [1], {"a.b": 1}, {"": 1}, "x"]),
        ("topology.ramp_epochs", [[1], "x", {}]),
        ("topology.initial_sparsity", ["x", 1]),
        ("sup_tickets", [5, None]),
        ("sup_tickets.options", [{"beta": None}, {"x\ny": 1}]),
        ("sup_tickets.enabled", [3]),
        ("optimizer.milestones", [[[1]], "abc", [2, 1]]),
        ("optimizer.momentum", [NAN, 5]),
        ("optimizer.learning_rate", [INF, None]),
        ("seed", [-1, 2**70, 0.5]),
        ("validation_size", [10**9, 1797, -1]),
        ("augment", ["x"]),
        ("runtime", [[], None]),
        ("runtime.data_dir", [5, "a\0b"]),
    ]
    odd = {
        f"{path} {value!r}"[:40]: stored_config({path: value})
        for path, values in fields
        for value in values
    }
    return {"none": None, "a list": [1], "a text": "digits", "a number": 3, "true": True} | odd
