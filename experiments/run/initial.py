"""The state of a run at step 0."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

import supjax
from experiments.run.build import RunParts
from experiments.run.steps import RunState, Source, zero_sums


def initial_state(parts: RunParts, source: Source, seed: int, index: int = 0) -> RunState:
    """Return one seed's state at step 0, which follows from the run's parts and the seed alone.

    Args:
      parts: the run's static parts.
      source: of the batches on which SNIP and GraSP score the network.
      seed: of the run.
      index: of the seed among those that train together.
    """
    image = jnp.ones((1, *parts.dataset.image_shape), jnp.float32)
    root = jax.random.key(seed)
    variables = _initializer(parts.model)(jax.random.fold_in(root, 0), image)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})

    def output_fn(params: Any) -> jax.Array:
        inputs = {"params": params, "batch_stats": batch_stats}
        return parts.model.apply(inputs, image, train=False)

    def loss_fn(params: Any) -> jax.Array:
        batches = source.training_batches(parts.init_batches, index)
        losses = [parts.loss_fn(params, batch_stats, b, root)[0] for b in batches]
        return jnp.mean(jnp.stack(losses))

    train = supjax.create_train_state(
        jax.random.fold_in(root, 1),
        params,
        parts.tx,
        parts.topology,
        batch_stats=batch_stats,
        loss_fn=loss_fn,
        output_fn=output_fn,
    )
    return RunState(train, zero_sums())


@functools.lru_cache(maxsize=8)
def _initializer(model: Any) -> Any:
    """Return the compiled init function of a model, one for all seeds."""
    return jax.jit(functools.partial(model.init, train=False))
