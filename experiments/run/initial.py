"""The state of a run at its first step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

import supjax
from experiments.run.averages import first_averages
from experiments.run.build import RunParts
from experiments.run.steps import RunState, Source, zero_sums


def initial_state(parts: RunParts, source: Source, seed: int, index: int = 0) -> RunState:
    """Return one seed's first state, which follows from the run's parts and the seed alone.

    It is that at step 0, or that at the end of the normal phase with the network that the run
    starts from and a fresh optimizer.

    Args:
      parts: the run's static parts.
      source: of the batches on which SNIP and GraSP score the network.
      seed: of the run.
      index: of the seed among those that train together.
    """
    image = jnp.ones((1, *parts.dataset.image_shape), jnp.float32)
    root = jax.random.key(seed)
    if parts.start is None:
        variables = _initializer(parts.model)(jax.random.fold_in(root, 0), image)
        params, batch_stats, masks = variables["params"], variables.get("batch_stats", {}), None
    else:
        params, masks, batch_stats = jax.tree.map(jnp.asarray, parts.start.tickets[index])

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
        masks=masks,
    )
    if parts.start is not None:
        step = jnp.asarray(parts.plan.normal_steps, jnp.int32)
        # The schedule of the rate counts the optimizer's own steps; memory is given away once.
        counters = ("count",) if parts.adaptation is None else ("count", "updates")
        copies = {name: jnp.copy(step) for name in counters}
        train = train._replace(step=step, opt_state=optax.tree.set(train.opt_state, **copies))
    return RunState(train, zero_sums(), averages=first_averages(parts.shares, train.params))


@functools.lru_cache(maxsize=8)
def _initializer(model: Any) -> Any:
    """Return the compiled init function of a model, one for all seeds."""
    return jax.jit(functools.partial(model.init, train=False))
