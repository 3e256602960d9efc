"""The training state at step 0."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import supjax
from experiments.run.build import Parts
from experiments.run.sources import Walk
from supjax.training import TrainState


def make_initial_state(
    config: ConfigDict, parts: Parts, walk: Walk, image_shape: tuple[int, int, int]
) -> Callable[[int, int], TrainState]:
    """Return `(seed, index) -> state at step 0`, which follows from config and seed alone.

    Args:
      config: says how many batches SNIP and GraSP score the network on.
      parts: the run's static parts.
      walk: where these batches come from, by the index of the seed.
      image_shape: of one image.
    """
    image = jnp.ones((1, *image_shape), jnp.float32)
    init = jax.jit(functools.partial(parts.model.init, train=False))

    def initial_state(seed: int, index: int) -> TrainState:
        root = jax.random.key(seed)
        variables = init(jax.random.fold_in(root, 0), image)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})

        def output_fn(params: Any) -> jax.Array:
            inputs = {"params": params, "batch_stats": batch_stats}
            return parts.model.apply(inputs, image, train=False)

        def loss_fn(params: Any) -> jax.Array:
            batches = walk.training_batches(config.topology.init_batches, index)
            losses = [parts.loss_fn(params, batch_stats, b, root)[0] for b in batches]
            return jnp.mean(jnp.stack(losses))

        return supjax.create_train_state(
            jax.random.fold_in(root, 1),
            params,
            parts.tx,
            parts.topology,
            batch_stats=batch_stats,
            loss_fn=loss_fn,
            output_fn=output_fn,
        )

    return initial_state
