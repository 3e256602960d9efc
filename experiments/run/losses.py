"""The training loss of a network, and what is counted when it is evaluated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import supjax
from experiments.data.types import Batch
from supjax.types import PyTree


def make_loss_fn(model: Any, label_smoothing: float) -> Callable[..., Any]:
    """Return the training loss of `supjax.make_train_step`: mean cross entropy, plus accuracy.

    Batches are `experiments.data.Batch`, all of whose weights are 1 in training.
    """

    def loss_fn(
        params: PyTree, batch_stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, PyTree]]:
        del key
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch.images,
            train=True,
            mutable=["batch_stats"],
        )
        targets = jax.nn.one_hot(batch.labels, logits.shape[-1])
        loss = optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch.labels, dtype=jnp.float32)
        return jnp.mean(loss), (updated.get("batch_stats", {}), {"accuracy": accuracy})

    return loss_fn


def make_metrics_fn(model: Any) -> Callable[..., Any]:
    """Return `(tickets, batch) -> sums` over a batch: loss, correct answers, examples.

    Several tickets answer together, by the mean of their class probabilities; one answers for
    itself. Padded examples have weight 0.
    """

    def metrics_fn(tickets: tuple[supjax.Ticket, ...], batch: Batch) -> PyTree:
        log_probabilities = [
            jax.nn.log_softmax(
                model.apply(
                    {"params": t.params, "batch_stats": t.batch_stats}, batch.images, train=False
                )
            )
            for t in tickets
        ]
        mean = jax.nn.logsumexp(jnp.stack(log_probabilities), axis=0) - jnp.log(len(tickets))
        loss = -jnp.take_along_axis(mean, batch.labels[:, None], axis=1)[:, 0]
        hits = jnp.argmax(mean, axis=-1) == batch.labels
        return {
            "loss": jnp.sum(loss * batch.weights),
            "correct": jnp.sum(hits * batch.weights),
            "examples": jnp.sum(batch.weights),
        }

    return metrics_fn
