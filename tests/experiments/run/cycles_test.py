"""Where the values of adaptive cycles stand in a state, of one seed and of several."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import supjax
from experiments.run.adapting import cycle_line, cycle_row
from experiments.run.cycles import (
    CycleValues,
    Neighbours,
    cycle_values,
    measured_batches,
    with_cycle_values,
)
from experiments.run.seed_axis import SeedAxis
from supjax.adaptive import NextCycle, adaptive_schedule

PLAN = supjax.CyclePlan(normal_steps=2, cycle_steps=2, num_cycles=2)


def state(seed=0):
    """A state whose parameters have the names of the values, which must not be mistaken."""
    rates = adaptive_schedule(lambda step: 0.1, PLAN, 0.01, 0.5)
    tx = optax.chain(
        optax.add_decayed_weights(0.1),
        optax.inject_hyperparams(optax.sgd, static_args=("momentum",))(rates, momentum=0.9),
    )
    method = supjax.make_topology("rigl", density=0.5)
    method = supjax.with_cycles(method, PLAN, 0.25, exploration_in_state=True)
    params = {"high": jnp.ones((4, 4)), "exploration": jnp.ones((4, 4))}
    return supjax.create_train_state(jax.random.key(seed), params, tx, method)


def test_both_values_are_read_and_set_and_nothing_else_changes():
    before = state()
    assert [float(value) for value in cycle_values(before)] == [0.5, 0.25]
    new = CycleValues(jnp.float32(0.3), jnp.float32(0.125))
    after = with_cycle_values(before, new)
    assert [float(value) for value in cycle_values(after)] == pytest.approx([0.3, 0.125])
    first, second = (jax.tree.leaves(tree._replace(rng=None)) for tree in (before, after))
    changed = [not np.array_equal(a, b) for a, b in zip(first, second, strict=True)]
    assert sum(changed) == 2
    assert jax.tree.structure(before) == jax.tree.structure(after)


def test_every_seed_has_values_of_its_own():
    seeds = SeedAxis([3, 4])
    both = seeds.stack([state(3), state(4)])
    new = [CycleValues(jnp.float32(h), jnp.float32(e)) for h, e in ((0.1, 0.0), (0.2, 0.5))]
    found = seeds.split(cycle_values(with_cycle_values(both, seeds.stack(new))))
    assert [[float(v) for v in values] for values in found] == [
        pytest.approx([0.1, 0.0]),
        pytest.approx([0.2, 0.5]),
    ]


def test_a_line_holds_what_ran_what_was_seen_and_what_follows():
    found = Neighbours(0.03, 0.4, 0.6, 0.01, 0.7)
    decided = NextCycle(jnp.float32(0.25), jnp.float32(0.5), jnp.array(False))
    row = cycle_row(CycleValues(0.5, 0.25), found, decided, jnp.array(False))
    assert row["barrier"] == pytest.approx(0.2)
    assert row["change"] == pytest.approx(-0.2)
    assert (row["high"], row["next_high"], row["exploration"], row["kept"]) == (0.5, 0.25, 0.25, 0)
    assert "left out" in cycle_line({"number": 1, **row})
    assert "left out" not in cycle_line({"number": 1, **row, "kept": 1})


@pytest.mark.parametrize(
    ("batch", "epoch", "count"), [(128, 390, 40), (152, 9, 9), (5000, 3, 1), (1, 6000, 5000)]
)
def test_training_images_are_enough_or_an_epoch(batch, epoch, count):
    assert measured_batches(batch, epoch) == count
