"""Densities, mask updates and schedules against the authors' own code (tests/vectors/README.md)."""

import json
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from supjax.allocation import ceil_share
from supjax.prune_grow import drop_smallest, grow_largest

ERK_DENSITIES = [0.5, 0.2, 0.1, 0.05, 0.02]
ERK_MODELS = ["cifar_resnet_32_c10", "vgg_like_c10", "resnet50_cifar_c10", "resnet50_cifar_c100"]
LAYER_CASES = ["conv3x3", "linear", "tiny", "dead"]
RATES = [0.5, 0.3, 0.8, 0.55]
LAYERS = [f"{name}.weight" for name in ("conv1", "conv2", "conv3", "fc1", "classifier")]


@pytest.fixture(scope="module")
def load(golden_folder):
    def load(name):
        with np.load(golden_folder / name) as file:
            return dict(file)

    return load


@pytest.fixture(scope="module")
def erk(load):
    return load("erk.npz")


@pytest.fixture(scope="module")
def updates(load):
    return load("death_growth.npz")


@pytest.fixture(scope="module")
def pruning(load):
    return load("granet_pruning.npz")


@pytest.fixture(scope="module")
def schedules(load):
    return load("schedules.npz")


@pytest.mark.parametrize(("model", "density"), [*product(ERK_MODELS, ERK_DENSITIES)])
def test_erk_densities(erk, model, density):
    names = erk[f"{model}/names"].tolist()
    shapes = [tuple(shape[shape > 0].tolist()) for shape in erk[f"{model}/shapes"]]
    params = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in zip(names, shapes, strict=True)
    }
    ours = supjax.erk(params, density)
    np.testing.assert_allclose(
        [ours[name] for name in names], erk[f"{model}/density_{density}"], rtol=0, atol=1e-12
    )


def test_every_stored_erk_table_is_compared(erk):
    assert {key.rpartition("/")[0] for key in erk} == set(ERK_MODELS)
    stored = {key.rpartition("_")[2] for key in erk if "density" in key}
    assert stored == {str(density) for density in ERK_DENSITIES}


def one_update(updates, case):
    weight, grad = (jnp.abs(updates[f"{case}/{key}"]) for key in ("weight", "grad"))
    return weight, grad, jnp.asarray(updates[f"{case}/mask"] > 0)


@pytest.mark.parametrize(("case", "rate"), [*product(LAYER_CASES, RATES)])
def test_prune_and_grow(updates, case, rate):
    weight, grad, mask = one_update(updates, case)
    moved = supjax.prune_and_grow(mask, weight, grad, rate)
    np.testing.assert_array_equal(moved, updates[f"{case}/imagenet/rate_{rate}/mask_after_growth"])


@pytest.mark.parametrize(("case", "rate"), [*product([*LAYER_CASES, "ties_in_weight"], RATES)])
def test_drop_and_grow_one_after_the_other(updates, case, rate):
    weight, grad, mask = one_update(updates, case)
    theirs = {
        key: updates[f"{case}/imagenet/rate_{rate}/{key}"]
        for key in ("removed", "mask_after_death", "mask_after_growth")
    }
    count = ceil_share(rate, jnp.sum(mask))
    assert count == theirs["removed"]
    dropped = drop_smallest(mask, weight, count[None])
    # Of equal weights at the threshold either may go: ours drops the highest index.
    threshold = jnp.max(jnp.where(mask & ~dropped, weight, 0))
    tied = mask & (weight == threshold) if case == "ties_in_weight" else jnp.zeros_like(mask)
    np.testing.assert_array_equal((dropped == theirs["mask_after_death"]) | tied, True)
    assert jnp.sum(dropped) == theirs["mask_after_death"].sum()
    grown = grow_largest(jnp.asarray(theirs["mask_after_death"] > 0), grad, count[None])
    np.testing.assert_array_equal(grown, theirs["mask_after_growth"])


def test_gradual_pruning_to_given_budgets(pruning):
    weights = [jnp.abs(pruning[f"in/weight/{name}"]) for name in LAYERS]
    masks = [jnp.asarray(pruning[f"in/mask/{name}"] > 0) for name in LAYERS]
    budgets = pruning["global/imagenet/A/num_params_to_keep"]
    assert (budgets > 0).sum() == 13  # no pruning any more at the last two points
    for point, keep in enumerate(budgets):
        if keep < 0:
            continue
        pruned = supjax.prune_globally(masks, weights, int(keep))
        for name, ours in zip(LAYERS, pruned, strict=True):
            np.testing.assert_array_equal(ours, pruning[f"global/imagenet/A/mask/{name}"][point])


def test_density_ramp_and_its_updates(pruning):
    """The ramp's density to 1e-12; the count within one, since ours rounds up and theirs down."""
    settings = json.loads(str(pruning["global/imagenet/A/settings"]))
    end = settings["final_prune_epoch"] * settings["loader_len"]
    initial, final = settings["init_density"], settings["final_density"]
    ramp = supjax.cubic_density_ramp(initial, final, 0, end)
    method = supjax.make_topology("gmp", density=final, initial_density=initial, ramp_end=end)
    params = [jnp.asarray(pruning[f"in/weight/{name}"]) for name in LAYERS]
    masks = [jnp.asarray(pruning[f"in/mask/{name}"] > 0) for name in LAYERS]
    state = supjax.TopologyState(masks, masks)
    update = jax.jit(method.update)
    keys = ("steps", "curr_prune_rate", "num_params_to_keep")
    points = [pruning[f"global/imagenet/A/{key}"] for key in keys]
    for steps, sparsity, budget in zip(*points, strict=True):
        if budget < 0:
            continue
        assert 1 - ramp(int(steps)) == pytest.approx(sparsity, abs=1e-12)
        after = update(jax.random.key(0), params, state, params, int(steps) - 1)
        assert abs(supjax.count_active(after.masks) - budget) <= 1


@pytest.mark.parametrize("run", ["cifar_readme", "odd_cycle"])
def test_cyclic_learning_rates(schedules, run):
    cycle_epochs, low, high, batches = schedules[f"cyclic/{run}/settings"]
    rates = schedules[f"cyclic/{run}/lr"]
    schedule = supjax.cyclic_schedule(low, high, int(cycle_epochs * batches), endpoint=False)
    ours = [schedule(step) for step in range(rates.size)]
    np.testing.assert_allclose(ours, rates.ravel(), rtol=0, atol=1e-12)


def test_cosine_decay(schedules):
    decay = schedules["cosine_decay/T100_rate0.5"]
    schedule = supjax.cosine_fraction(0.5, 100, final=0.005)
    np.testing.assert_allclose([schedule(t) for t in range(101)], decay, rtol=0, atol=1e-12)


SLIPS = {
    (50, 0.58, 1): (21, 29, 29),  # theirs: 28 cyclic epochs, and so on: one cycle is lost
    (90, 0.7, 1): (27, 63, 63),
    (100, 0.29, 1): (71, 29, 29),
    (100, 0.58, 1): (42, 58, 58),
    (100, 0.58, 2): (42, 58, 29),
    (200, 0.29, 1): (142, 58, 58),
    (200, 0.29, 2): (142, 58, 29),
    (200, 0.58, 1): (84, 116, 116),
    (200, 0.58, 2): (84, 116, 58),
    (200, 0.58, 4): (84, 116, 29),
}
"""(epochs, fraction, cycle) -> (normal, cyclic, tickets) where binary floats lose an epoch."""


def test_epoch_arithmetic(schedules):
    slips = set()
    for epochs, fraction, cycle, normal, cyclic, tickets in schedules["epochs_calculation/table"]:
        plan = supjax.CyclePlan.from_epochs(
            int(epochs), cycle_fraction=fraction, cycle_epochs=int(cycle), steps_per_epoch=1
        )
        ours = (plan.normal_steps, plan.cyclic_steps, plan.num_cycles)
        if ours != (normal, cyclic, tickets):
            row = (int(epochs), float(fraction), int(cycle))
            assert ours == SLIPS[row]
            assert tickets == SLIPS[row][2] - 1
            slips.add(row)
    assert slips == set(SLIPS)
