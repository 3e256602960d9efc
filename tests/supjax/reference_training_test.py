"""Masked SGD and superposition against the authors' own code (tests/vectors/README.md).

Weights keep PyTorch's layout, convolutions OIHW and dense weights (out, in): steps, masks and means
work on any array, whatever its axes mean.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import supjax
from supjax import Ticket, TopologyState

STEPS, EVERY = 16, 4
NAMES = ["conv.weight", "fc.weight", "fc.bias"]


@pytest.fixture(scope="module")
def sgd(golden_folder):
    with np.load(golden_folder / "masked_sgd.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def folds(golden_folder):
    with np.load(golden_folder / "superpose.npz") as file:
        return dict(file)


def linear_loss(params, batch_stats, batch, key):
    """A loss whose gradient is the batch itself."""
    products = jax.tree.map(lambda weight, grad: jnp.sum(weight * grad), params, batch)
    return sum(jax.tree.leaves(products)), (batch_stats, {})


def reference_optimizer():
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9))


@pytest.mark.parametrize("variant", ["cifar_fixed", "cifar_dst_constant"])
@pytest.mark.parametrize("loop", ["steps", "sparsify"])
def test_sixteen_steps_of_sgd(sgd, variant, loop):
    params = {name: jnp.asarray(sgd[f"w0/{name}"]) for name in NAMES}
    masks = {name: jnp.asarray(sgd[f"mask0/{name}"], bool) for name in NAMES[:2]} | {
        "fc.bias": None
    }
    params = supjax.apply_masks(params, masks)
    if variant == "cifar_fixed":
        topology = supjax.make_topology("static", density=0.5)
    else:
        topology = supjax.make_topology("rigl", density=0.5, drop_fraction=0.5, update_every=EVERY)
    topology = topology._replace(init=lambda key, params, **_: TopologyState(masks, masks))
    batches = [{name: jnp.asarray(sgd[f"grads/{name}"][i]) for name in NAMES} for i in range(STEPS)]
    runs = {"steps": run_steps, "sparsify": run_sparsify}[loop](params, topology, batches)
    for index, (params, masks, opt_state) in enumerate(runs):
        momentum = optax.tree_utils.tree_get(opt_state, "trace")
        for name in NAMES:
            kwargs = {"rtol": 1e-6, "atol": 1e-6, "err_msg": f"{name}, step {index}"}
            expected = sgd[f"{variant}/weight/{name}"][index]
            np.testing.assert_allclose(params[name], expected, **kwargs)
            expected = sgd[f"{variant}/momentum/{name}"][index]
            np.testing.assert_allclose(momentum[name], expected, **kwargs)
        for name in NAMES[:2]:
            np.testing.assert_array_equal(masks[name], sgd[f"{variant}/mask/{name}"][index])


def run_steps(params, topology, batches):
    tx = reference_optimizer()
    state = supjax.create_train_state(jax.random.key(0), params, tx, topology)
    train_step = jax.jit(supjax.make_train_step(linear_loss, tx, topology))
    topology_step = jax.jit(supjax.make_topology_step(linear_loss, tx, topology))
    for index, batch in enumerate(batches):
        if topology.due(index):
            state, _ = topology_step(state, batch, topology.drop_fraction(index))
        else:
            state, _ = train_step(state, batch)
        yield state.params, state.topology.masks, state.opt_state


def run_sparsify(params, topology, batches):
    tx = supjax.sparsify(reference_optimizer(), topology, jax.random.key(0))
    state = tx.init(params)
    update = jax.jit(tx.update)
    for batch in batches:
        updates, state = update(batch, state, params)
        params = optax.apply_updates(params, updates)
        yield params, state.topology.masks, state.inner


def states(folds, prefix):
    """Weights and statistics of one network of the file."""
    found = {
        key.removeprefix(prefix): jnp.asarray(value)
        for key, value in folds.items()
        if key.startswith(prefix)
    }
    moving = ("running_mean", "running_var", "num_batches_tracked")
    stats = {name: found.pop(name) for name in list(found) if name.endswith(moving)}
    return found, stats


def ticket(folds, index):
    params, stats = states(folds, f"ticket{index}/state/")
    masked = folds["masked_names"].tolist()
    masks = {
        name: jnp.asarray(folds[f"ticket{index}/mask/{name}"], bool) if name in masked else None
        for name in params
    }
    return Ticket(params, masks, stats)


def assert_network(ours, folds, prefix, counters):
    """Compare with the file; its counters are truncated, ours are rounded half up."""
    params, stats = states(folds, prefix)
    for name, expected in {**params, **stats}.items():
        got = ours.params[name] if name in ours.params else ours.batch_stats[name]
        if name.endswith("num_batches_tracked"):
            assert (int(got), int(expected)) == counters
        else:
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7, err_msg=name)


def kept_density(folds, prefix):
    """Their budget is 0.2 N rounded down; ours would be rounded to the nearest integer."""
    kept, size = (
        sum(count(folds[f"{prefix}mask/{name}"]) for name in folds["masked_names"])
        for count in (np.sum, np.size)
    )
    assert kept == folds[f"{prefix}kept_budget"] == int(0.2 * size)
    return float(kept / size)


@pytest.mark.parametrize(("members", "counters"), [(2, (104, 103)), (3, (107, 106))])
def test_the_running_mean_and_its_pruning(folds, members, counters):
    """Their "CAA" is the plain running mean, with the first ticket as its first member."""
    tickets = [ticket(folds, index) for index in range(members)]
    prefix = f"CAA_density0.2/after{members - 1}/"
    density = kept_density(folds, prefix)
    result = supjax.superpose(tickets, density=density)
    assert_network(result, folds, f"{prefix}final/", counters)
    for name in folds["masked_names"]:
        np.testing.assert_array_equal(result.masks[name], folds[f"{prefix}mask/{name}"])
    before = supjax.superpose(tickets[:-1], density=density) if members > 2 else tickets[0]
    mean = supjax.superpose_step(before, tickets[-1], members - 1, density=1.0)
    assert_network(mean, folds, f"{prefix}avg/", counters)


def test_the_moving_average_and_its_pruning(folds):
    """Their decay weighs the new ticket; at 0.5 both are the same."""
    tickets, prefix = [ticket(folds, index) for index in range(2)], "CIMA_decay0.5_tickets2/"
    density = kept_density(folds, prefix)
    result = supjax.superpose(tickets, density=density, average="cima", beta=0.5)
    assert_network(result, folds, f"{prefix}final/", (104, 103))
    for name in folds["masked_names"]:
        np.testing.assert_array_equal(result.masks[name], folds[f"{prefix}mask/{name}"])
    mean = supjax.superpose(tickets, density=1.0, average="cima", beta=0.5)
    assert_network(mean, folds, f"{prefix}avg/", (104, 103))
