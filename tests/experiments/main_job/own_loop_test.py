"""A user's own optax loop with `sup_tickets` is the main job, weight for weight."""

import jax
import numpy as np
import optax
import pytest

import supjax
from experiments.data.types import Shard
from experiments.run.build import build, open_dataset
from experiments.run.resident import ResidentSource
from experiments.run.seed_axis import SeedAxis
from experiments.run.sources import make_steps
from experiments.train import train_and_evaluate
from supjax.ticket_io import load_ticket
from supjax.trees import named_leaves
from tests.helpers.tiny_runs import FILES, NORMAL_STEPS, SMALLER, TOTAL_STEPS, tiny_config

SEED = 3
FAST = SMALLER | {"seed": SEED}
CNN = {"seed": SEED, "model.width": 0.125}
RUNS = {
    "static, which has no growth of its own": FAST | {"method": "static"},
    "set, without the end of the normal phase": FAST
    | {"method": "set", "sup_tickets.include_pretrained": False, "sup_tickets.average": "caa"},
    "rigl with batch norm": CNN
    | {
        "method": "rigl",
        "sup_tickets.batch_stats": "recompute",
        "sup_tickets.recompute_batches": 2,
    },
}
TAKEN = {NORMAL_STEPS: "pretrained", 24: "ticket_1", TOTAL_STEPS: "ticket_2"}
"""File of the network after so many steps."""


class Loop:
    """What somebody writes who has only the network, the optimizer and the batches of a run.

    Attributes:
      params, stats, opt_state: now.
    """

    def __init__(self, config):
        parts = build(config, open_dataset(config))
        steps = make_steps(parts, SeedAxis([SEED]), 1, config.runtime)
        assert isinstance(steps.source, ResidentSource)
        self.plan, self.source = parts.plan, steps.source
        root = jax.random.key(SEED)
        image = np.ones((1, *parts.dataset.image_shape), np.float32)
        init = jax.jit(parts.model.init, static_argnames="train")
        variables = init(jax.random.fold_in(root, 0), image, train=False)
        self.params, self.stats = variables["params"], variables.get("batch_stats", {})
        options = {"update_every": 5, "drop_fraction": parts.topology.drop_fraction}
        topology = supjax.make_topology(
            config.method,
            density=round(1 - config.sparsity, 12),
            **({} if config.method == "static" else options | {"stop": parts.plan.normal_steps}),
        )
        tx = supjax.sup_tickets(
            parts.tx,
            topology,
            parts.plan,
            jax.random.fold_in(root, 1),
            exploration=config.sup_tickets.exploration,
            superposition=config.sup_tickets.average,
            include_pretrained=config.sup_tickets.include_pretrained,
        )
        self.opt_state = tx.init(self.params)
        self.params = supjax.sparse_params(self.params, self.opt_state)
        self.apply_fn = lambda variables, x: parts.model.apply(
            variables, x, train=True, mutable=["batch_stats"]
        )

        def step(params, stats, opt_state, data, index):
            batch = self.source.train_batch(data, index, Shard())

            def loss_fn(params):
                logits, new = self.apply_fn({"params": params, "batch_stats": stats}, batch.images)
                targets = jax.nn.one_hot(batch.labels, logits.shape[-1])
                targets = optax.smooth_labels(targets, config.optimizer.label_smoothing)
                loss = optax.softmax_cross_entropy(logits, targets).mean()
                return loss, new.get("batch_stats", {})

            grads, new = jax.grad(loss_fn, has_aux=True)(params)
            updates, opt_state = tx.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), new, opt_state

        self._step = jax.jit(step)

    def step(self, index):
        self.params, self.stats, self.opt_state = self._step(
            self.params, self.stats, self.opt_state, self.source.data(index), np.int32(index)
        )

    def ticket(self):
        return supjax.take_ticket(self.params, self.opt_state, self.stats)


def assert_same(ours, theirs):
    """Assert that two tickets are the same to the last bit, statistics aside."""
    for field in ("params", "masks"):
        first, second = (named_leaves(getattr(ticket, field)) for ticket in (ours, theirs))
        assert first.keys() == second.keys()
        for path, leaf in first.items():
            np.testing.assert_array_equal(leaf, second[path], err_msg=f"{field} at {path}")


@pytest.mark.parametrize("name", RUNS)
def test_the_networks_of_an_own_loop_are_those_of_the_main_job_to_the_bit(name, tmp_path):
    config = tiny_config(RUNS[name])
    train_and_evaluate(config, tmp_path)
    loop = Loop(config)
    kept = {file: load_ticket(tmp_path / "tickets" / f"{file}.npz") for file in FILES}
    for index in range(TOTAL_STEPS):
        loop.step(index)
        if file := TAKEN.get(index + 1):
            ticket = loop.ticket()
            assert_same(ticket, kept[file])
            jax.tree.map(np.testing.assert_array_equal, ticket.batch_stats, kept[file].batch_stats)
        if file in ("ticket_1", "ticket_2"):
            ours = supjax.superposed(loop.opt_state, loop.params)
            theirs = kept[file.replace("ticket", "superposed")]
            assert_same(ours, theirs)
            batches = (batch.images for batch in loop.source.training_batches(2))
            ours = ours._replace(batch_stats=loop.stats)
            ours = supjax.recompute_batch_stats(loop.apply_fn, ours, batches)
            jax.tree.map(np.testing.assert_array_equal, ours.batch_stats, theirs.batch_stats)
