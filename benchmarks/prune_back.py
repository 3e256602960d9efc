"""Other ways to make one network of tickets, on finished runs: scores of prune-back, coefficients.

    python -m benchmarks.prune_back runs/study/digits [FOLDER ...] [--data_dir DIR]
        [--batches 50] [--output runs/benchmarks/prune_back.json]

Every run's tickets are folded by the rule "cia" (a running mean, pruned back after every fold), but
what is kept is decided by another score than the magnitude of the mean m:

- deviation: |m| / (s + 1e-3 r), with s the deviation of a weight over the members so far and r the
  root of its mean square: what the members agree on stays;
- fisher: |m| times the root of the mean squared gradient over 256 training images;
- input: |m| times the norm of the activations that the weight is multiplied by;
- once: by magnitude, but only after the last fold;
- learned: one coefficient for each layer and member (a softmax), by 100 steps of Adam on training
  batches, with the gradient through prune-back and the mask of the last step held.

Batch-norm statistics are estimated again for each. The table shows held-out loss and accuracy, as
the difference to "cia" over the runs of a setting, paired, with its 95 % interval. The test split
is not read.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import supjax
from benchmarks.common import print_table, write_json
from experiments.analysis.finished_run import FinishedRun
from experiments.analysis.superpositions import held_out_losses
from experiments.study.finding import find_folders
from experiments.study.statistics import paired_gains
from supjax.superposition.averaging import running_mean
from supjax.types import PyTree, Ticket

MAGNITUDE = "cia"
SCORED_IMAGES = 256
STEPS = 100
LEARNING_RATE = 0.05

Members = Sequence[Ticket]
Score = Callable[[Ticket, Members], PyTree]
"""`(mean, members so far) -> scores of all weights`."""


def pruned(mean: PyTree, scores: PyTree, like: Ticket) -> Ticket:
    """Return the mean with as many weights as `like` has, those of the largest scores.

    >>> like = Ticket({"w": jnp.ones((1, 3))}, {"w": jnp.array([[True, False, False]])})
    >>> pruned({"w": jnp.array([[3.0, 2.0, 1.0]])}, {"w": jnp.array([[0.0, 9.0, 1.0]])}, like)[0]
    {'w': Array([[0., 2., 0.]], dtype=float32)}
    """
    kept = sum(int(mask.sum()) for mask in jax.tree.leaves(like.masks))
    maskable = jax.tree.map(
        lambda mask, s: None if mask is None else s, like.masks, scores, is_leaf=lambda x: x is None
    )
    masks = supjax.global_top_k_masks(maskable, kept)
    return Ticket(supjax.apply_masks(mean, masks), masks)


def folded(members: Members, score: Score, *, once: bool = False) -> Ticket:
    """Fold members into a running mean, pruned back by a score after every fold, or at the end."""
    running = members[0].params
    for count, ticket in enumerate(members[1:], 2):
        running = running_mean(running, ticket.params, 1 / count)
        if not once or count == len(members):
            result = pruned(running, score(Ticket(running, None), members[:count]), ticket)
            running = result.params
    return result


def by_magnitude(mean: Ticket, members: Members) -> PyTree:
    """Return |m|."""
    del members
    return jax.tree.map(jnp.abs, mean.params)


def by_deviation(mean: Ticket, members: Members) -> PyTree:
    """Return |m| over the deviation of the members."""

    def score(m: jax.Array, *weights: jax.Array) -> jax.Array:
        found = jnp.stack(weights)
        root = jnp.sqrt(jnp.mean(jnp.square(found), axis=0))
        return jnp.where(root > 0, jnp.abs(m) / (found.std(axis=0) + 1e-3 * root + 1e-30), 0)

    return jax.tree.map(score, mean.params, *(ticket.params for ticket in members))


def data_scores(run: FinishedRun) -> dict[str, Score]:
    """Return the scores that look at training images."""
    images = run.images[0][:SCORED_IMAGES]

    def predicted(params: PyTree, stats: PyTree, x: jax.Array) -> jax.Array:
        return run.model.apply({"params": params, "batch_stats": stats}, x, train=False)

    @jax.jit
    def fisher(params: PyTree, stats: PyTree) -> PyTree:
        def loss(params: PyTree, x: jax.Array) -> jax.Array:  # expected over the network's labels
            logits = predicted(params, stats, x[None])[0]
            label = jax.lax.stop_gradient(logits.argmax())
            return -jax.nn.log_softmax(logits)[label]

        gradients = jax.vmap(jax.grad(loss), (None, 0))(params, images)
        return jax.tree.map(
            lambda w, g: jnp.abs(w) * jnp.sqrt(jnp.mean(jnp.square(g), axis=0)), params, gradients
        )

    @jax.jit
    def norms(params: PyTree, stats: PyTree) -> dict[str, jax.Array]:
        found = {}

        def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if isinstance(context.module, nn.Dense | nn.Conv):
                squares = jnp.square(args[0].astype(jnp.float32))
                path = "/".join((*context.module.path, "kernel"))
                found[path] = jnp.sqrt(squares.sum(tuple(range(squares.ndim - 1))))
            return call(*args, **kwargs)

        with nn.intercept_methods(watch):
            predicted(params, stats, images)
        return found

    def ready(mean: Ticket, members: Members) -> tuple[PyTree, PyTree]:
        found = run.reestimated(mean._replace(batch_stats=members[-1].batch_stats))
        return found.params, found.batch_stats

    def by_input(mean: Ticket, members: Members) -> PyTree:
        found = norms(*ready(mean, members))

        def score(path: Any, w: jax.Array) -> jax.Array:
            norm = found.get(jax.tree_util.keystr(path, simple=True, separator="/"))
            if norm is None:
                return jnp.abs(w)
            return jnp.abs(w) * norm.reshape((1,) * (w.ndim - 2) + (-1, 1))

        return jax.tree_util.tree_map_with_path(score, mean.params)

    return {"fisher": lambda m, t: fisher(*ready(m, t)), "input": by_input}


def learned(run: FinishedRun) -> Ticket:
    """Return the mean by coefficients of layers and members that training batches have chosen."""
    members = run.members
    stacked = jax.tree.map(lambda *w: jnp.stack(w), *(ticket.params for ticket in members))
    last = members[-1]
    batches = islice(cycle(run.batches), STEPS)
    choices = jax.tree.map(lambda w: jnp.zeros(len(w)), stacked)
    optimizer = optax.adam(LEARNING_RATE)

    def mixed(choices: PyTree) -> PyTree:
        return jax.tree.map(lambda c, w: jnp.tensordot(jax.nn.softmax(c), w, 1), choices, stacked)

    @jax.jit
    def step(choices: PyTree, state: Any, masks: PyTree, images: Any, labels: Any) -> Any:
        def loss(choices: PyTree) -> jax.Array:
            params = supjax.apply_masks(mixed(choices), masks)
            variables = {"params": params, "batch_stats": last.batch_stats}
            logits, _ = run.model.apply(variables, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(choices), state)
        return optax.apply_updates(choices, updates), state

    def made(choices: PyTree) -> Ticket:
        params = mixed(choices)
        return pruned(params, jax.tree.map(jnp.abs, params), last)

    state = optimizer.init(choices)
    for batch in batches:
        masks = made(choices).masks
        choices, state = step(choices, state, masks, batch.images, batch.labels)
    return made(choices)


def measure(run: FinishedRun) -> dict[str, tuple[float, float]]:
    """Return held-out loss (nats) and accuracy (%) of each way to make one network of tickets."""
    members = run.members
    scores = {MAGNITUDE: by_magnitude, "deviation": by_deviation, **data_scores(run)}
    networks = {name: folded(members, score) for name, score in scores.items()}
    networks["once"] = folded(members, by_magnitude, once=True)
    networks["learned"] = learned(run)
    stats = members[-1].batch_stats
    found = {}
    for name, ticket in networks.items():
        ready = run.reestimated(ticket._replace(batch_stats=stats))
        logits, labels = run.predictions([ready], run.split)
        accuracy = 100 * float(np.mean(logits[0].argmax(-1) == labels))
        found[name] = (float(held_out_losses(run)(ready).mean()), accuracy)
    return found


def table(settings: dict[str, dict[int, dict[str, tuple[float, float]]]]) -> list[list[str]]:
    """Return lines of text: differences to "cia" in loss and accuracy, paired by seed.

    >>> rows = {0: {"cia": (0.5, 90.0), "once": (0.4, 91.0)}, 1: {"cia": (0.5, 90.0),
    ...     "once": (0.5, 90.5)}}
    >>> table({"rigl, 0.9": rows})
    [['rigl, 0.9', 'once', '-0.0500 ± 0.6353', '+0.75 ± 3.18', '2']]
    """
    lines = []
    for setting, runs in settings.items():
        for name in next(iter(runs.values())):
            if name == MAGNITUDE:
                continue
            cells = []
            for place, digits in ((0, 4), (1, 2)):
                before = {seed: row[MAGNITUDE][place] for seed, row in runs.items()}
                found = paired_gains(before, {s: row[name][place] for s, row in runs.items()})
                width = "-" if not found or found.half_width is None else found.half_width
                spread = width if isinstance(width, str) else f"{width:.{digits}f}"
                cells.append(f"{found.mean:+.{digits}f} ± {spread}" if found else "-")
            lines.append([setting, name, *cells, str(len(runs))])
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prune_back")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/prune_back.json"))
    given = parser.parse_args(arguments)
    settings: dict[str, dict[int, Any]] = defaultdict(dict)
    for folder in find_folders(given.folders)[0]:
        run = FinishedRun(folder.path, batches=given.batches, data_dir=given.data_dir)
        config = run.summary["config"]
        name = f"{config['dataset']}, {config['method']}, {config['sparsity']:g}"
        settings[name][config["seed"]] = measure(run)
    head = ["setting", "score", "loss - cia", "accuracy - cia", "seeds"]
    print_table(head, table(settings))
    write_json(given.output, {"settings": settings})


if __name__ == "__main__":
    main()
