"""JaxPruner's mask updates and optimizer steps beside those of supjax, for `benchmarks.peers`.

The network is kernels alone, as its SET and RigL fail on one with weights that stay dense.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import supjax
from benchmarks.sparsify_overhead import Weights, plain_step, sparse_steps

OURS, PEER, PLAIN = "supjax", "jaxpruner", "plain optax"
DENSITY, DROP, EVERY, RAMP_END = 0.1, 0.3, 1000, 100_000
METHODS = {"static": "static_sparse", "set": "set", "rigl": "rigl", "gmp": "global_magnitude"}
"""Our name of a method -> the peer's."""

Call = Callable[[], Any]


def our_topology(method: str) -> supjax.TopologyTransform:
    """Our method, with the same share dropped and the same ramp as the peer's."""
    if method == "static":
        return supjax.make_topology(method, density=DENSITY)
    if method == "gmp":
        return supjax.make_topology(method, density=DENSITY, ramp_end=RAMP_END, update_every=EVERY)
    return supjax.make_topology(method, density=DENSITY, drop_fraction=DROP, update_every=EVERY)


def peer_updater(jaxpruner: Any, method: str) -> Any:
    """The peer's counterpart."""
    updater = jaxpruner.ALGORITHM_REGISTRY[METHODS[method]]
    if method == "static":
        return updater(sparsity_distribution_fn=_peer_densities(jaxpruner))
    period = {"update_freq": EVERY, "update_start_step": EVERY, "update_end_step": RAMP_END}
    if method == "gmp":
        scheduler = jaxpruner.PolynomialSchedule(**period)
        return updater(scheduler=scheduler, sparsity=1 - DENSITY, use_normalization=False)
    return updater(
        scheduler=jaxpruner.PeriodicSchedule(**period),
        sparsity_distribution_fn=_peer_densities(jaxpruner),
        drop_fraction_fn=lambda _: DROP,
    )


def _peer_densities(jaxpruner: Any) -> Callable[..., Any]:
    return partial(jaxpruner.sparsity_distributions.erk, sparsity=1 - DENSITY)


def our_mask_update(method: str, params: Any) -> Call:
    """Move the masks once, in the middle of the ramp where there is one."""
    topology = our_topology(method)
    state = topology.init(jax.random.key(0), params)
    grads = jax.tree.map(lambda leaf: leaf[..., ::-1], params)
    weights = supjax.apply_masks(params, state.masks)
    update = jax.jit(topology.update)
    key, step = jax.random.key(1), jnp.int32(RAMP_END // 2 - 1)
    return lambda: update(key, grads, state, weights, step)


def peer_mask_update(jaxpruner: Any, method: str, params: Any) -> Call:
    """The same by the peer; no optimizer state is reset on the way."""
    updater = peer_updater(jaxpruner, method)
    state = updater.init_state(params)._replace(inner_state=optax.EmptyState())
    grads = jax.tree.map(lambda leaf: leaf[..., ::-1], params)
    weights = updater.post_gradient_update(params, state)
    state = state._replace(count=jnp.int32(RAMP_END // 2))
    update = jax.jit(updater.update_state)
    return lambda: update(state, weights, grads)


def our_step(method: str, weights: Weights) -> Call:
    """An optimizer step without a mask update, wrapped with `supjax.sparsify`."""
    tx = supjax.sparsify(optimizer(), our_topology(method), jax.random.key(0))
    return sparse_steps(tx, weights, [0])[0]


def peer_step(jaxpruner: Any, method: str, weights: Weights) -> Call:
    """The same, wrapped by the peer, with the masking that its users do after each step."""
    updater = peer_updater(jaxpruner, method)
    tx = updater.wrap_optax(optimizer())

    def step(params: Any, inner: Any, grads: Any, state: Any, count: Any) -> Any:
        state = state._replace(inner_state=inner, count=count)
        updates, state = tx.update(grads, state, params)
        params = updater.post_gradient_update(optax.apply_updates(params, updates), state)
        return params, state.inner_state, state._replace(inner_state=(), count=())

    state = tx.init(weights.params)._replace(inner_state=(), count=())
    count = jnp.int32(1)
    compiled = (
        jax.jit(step, donate_argnums=(0, 1, 3))
        .lower(*vars(weights).values(), state, count)
        .compile()
    )

    def call() -> Any:
        nonlocal state
        weights.params, weights.inner, state = compiled(*vars(weights).values(), state, count)
        return weights.params, weights.inner, state

    return call


def optimizer() -> optax.GradientTransformation:
    """The optimizer that both sides wrap."""
    return optax.sgd(0.1, momentum=0.9)


def step_contenders(jaxpruner: Any, params: Any) -> dict[str, Call]:
    """The plain step, and that of both sides for every method, on weights that all share."""
    weights = Weights(optimizer(), params)
    functions = {PLAIN: plain_step(optimizer(), weights)}
    for method in METHODS:
        functions[f"{PEER} {method}"] = peer_step(jaxpruner, method, weights)
        functions[f"{OURS} {method}"] = our_step(method, weights)
    return functions
