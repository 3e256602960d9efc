"""A classification problem for optimizer loops: one sparse kernel among leaves that stay dense."""

import jax
import jax.numpy as jnp
import optax

import supjax

SHAPE = (6, 9)
"""Shape of the sparse kernel, shared with no other leaf."""

ACTIVE = 22
"""Active weights of it at density 0.4."""


def params():
    keys = jax.random.split(jax.random.key(0))
    return {
        "sparse": {"kernel": 0.5 * jax.random.normal(keys[0], SHAPE), "bias": jnp.zeros(9)},
        "scale": jnp.ones(9),
        "dense": {"kernel": 0.5 * jax.random.normal(keys[1], (9, 4)), "bias": jnp.zeros(4)},
    }


def filter_fn(path, leaf):
    return path == "sparse/kernel"


def topology(name="rigl", density=0.4, **options):
    return supjax.make_topology(name, density=density, filter_fn=filter_fn, **options)


def batch():
    x = jax.random.normal(jax.random.key(2), (24, 6))
    return x, jnp.argmax(x[:, :4], axis=1)


def loss_fn(params, batch):
    x, labels = batch
    x = x @ params["sparse"]["kernel"] + params["sparse"]["bias"][None]
    x = jax.nn.relu(x * params["scale"][None])
    logits = x @ params["dense"]["kernel"] + params["dense"]["bias"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(tx, steps, start=None):
    """Yield `(params, opt_state, loss)` at the start and after every step of a compiled loop.

    The loss is that from before the step. Asserts that all steps share one compilation.
    """
    weights = params() if start is None else start
    opt_state = tx.init(weights)
    weights = supjax.sparse_params(weights, opt_state)
    examples = batch()

    @jax.jit
    def step(weights, opt_state):
        loss, grads = jax.value_and_grad(loss_fn)(weights, examples)
        updates, opt_state = tx.update(grads, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state, loss

    yield weights, opt_state, jnp.inf
    for _ in range(steps):
        weights, opt_state, loss = step(weights, opt_state)
        yield weights, opt_state, loss
    assert step._cache_size() == 1
