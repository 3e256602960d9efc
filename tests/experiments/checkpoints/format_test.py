"""Bit-exactness and size of packed training states, and what happens when they do not fit."""

import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax.sharding import NamedSharding, PartitionSpec

from experiments.checkpoints.format import FORMAT, MANIFEST, MismatchError, pack, unpack
from supjax.parallel import data_parallel
from supjax.training import TrainState
from supjax.types import Ticket, TopologyState
from tests.helpers.checkpoint_states import PHASES, bits, make_state, odd_state, small_state
from tests.helpers.strategies import masked_trees

Change = Callable[[TrainState], TrainState]


def test_every_kind_of_leaf_comes_back_bit_for_bit() -> None:
    state = odd_state()
    restored, step, info = unpack(pack(state, 7, {"loss": 0.1}), state)
    assert bits(restored) == bits(state)
    assert (step, info) == (7, {"loss": 0.1})


@given(masked_trees())
def test_any_tree_comes_back_bit_for_bit(tree: tuple) -> None:
    params, masks = tree
    state = small_state(0)._replace(
        params=params, topology=TopologyState(masks, masks), superposed=Ticket(params, masks)
    )
    assert bits(unpack(pack(state, 0, {}), state)[0]) == bits(state)


@pytest.mark.parametrize("saved", PHASES)
@pytest.mark.parametrize("phase", PHASES)
def test_the_checkpoint_says_whether_there_is_a_superposition(saved: str, phase: str) -> None:
    state, template = make_state(1, saved), make_state(2, phase)
    restored = unpack(pack(state, 1, {}), template)[0]
    assert bits(restored) == bits(state)


def test_a_template_of_shapes_is_enough() -> None:
    state = make_state(1, "superposed")
    template = jax.eval_shape(lambda other: other, make_state(0))
    assert bits(unpack(pack(state, 1, {}), template)[0]) == bits(state)


def test_numpy_leaves_come_back_as_jax_arrays() -> None:
    state = small_state(3)
    assert bits(unpack(pack(jax.device_get(state), 3, {}), state)[0]) == bits(state)


def test_a_mask_takes_one_bit_and_a_sparse_weight_little_more_than_its_density() -> None:
    state = make_state(0, width=64)
    arrays = pack(state, 0, {})
    weights = state.params["head"]["kernel"]
    kept = int(jnp.count_nonzero(weights))
    assert arrays["leaves/topology/masks/head/kernel"].nbytes == weights.size // 8
    assert arrays["leaves/params/head/kernel"].nbytes == weights.size // 8 + 4 * kept
    assert arrays["leaves/params/conv/bias"].nbytes == 4 * 64


def test_a_state_on_all_devices_comes_back_on_one() -> None:
    state = make_state(1, "superposed")
    everywhere = data_parallel(lambda s, x: s)(state, jnp.zeros(4))
    assert len(everywhere.params["head"]["kernel"].devices()) == 4
    restored = unpack(pack(everywhere, 1, {}), state)[0]
    assert bits(restored) == bits(state)
    default = jnp.zeros(()).devices()
    assert all(leaf.devices() == default for leaf in jax.tree.leaves(restored))


def test_a_split_array_is_put_together() -> None:
    state = small_state(0)
    state = state._replace(params={"w": jnp.arange(24.0).reshape(8, 3)})
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("x"))
    split = state._replace(params=jax.device_put(state.params, rows))
    assert bits(unpack(pack(split, 0, {}), state)[0]) == bits(state)


def test_restored_arrays_can_be_donated() -> None:
    state = make_state(1)
    restored = unpack(pack(state, 1, {}), state)[0]
    step = jax.jit(lambda params: jax.tree.map(lambda w: w + 1, params), donate_argnums=0)
    assert bits(step(restored.params)) == bits(jax.tree.map(lambda w: w + 1, state.params))


def unchanged(state: TrainState) -> TrainState:
    return state


def narrower(state: TrainState) -> TrainState:
    del state
    return make_state(0, width=5)


def without_bias(state: TrainState) -> TrainState:
    kernels = {"conv": {"kernel": state.params["conv"]["kernel"]}, "head": state.params["head"]}
    return state._replace(params=kernels)


def in_bfloat16(state: TrainState) -> TrainState:
    return state._replace(params=jax.tree.map(lambda w: w.astype(jnp.bfloat16), state.params))


def with_another_key(state: TrainState) -> TrainState:
    return state._replace(rng=jax.random.key(0, impl="rbg"))


def with_another_superposition(state: TrainState) -> TrainState:
    return state._replace(superposed=without_bias(state).ticket)


CHANGES: dict[str, tuple[Change, Change]] = {
    "params/conv/bias is float32[5] in the checkpoint, float32[6] in this run": (
        narrower,
        unchanged,
    ),
    "params/conv/bias is float32[6] in the checkpoint, bfloat16[6] in this run": (
        unchanged,
        in_bfloat16,
    ),
    "params/conv/bias is only in the checkpoint": (unchanged, without_bias),
    "params/conv/bias is missing in the checkpoint": (without_bias, unchanged),
    "rng is key<rbg>[] in the checkpoint, key<fry>[] in this run": (with_another_key, unchanged),
    "superposed/params/conv/bias is missing in the checkpoint": (
        with_another_superposition,
        unchanged,
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_another_state_is_refused_by_its_first_difference(message: str) -> None:
    change_saved, change_template = CHANGES[message]
    saved, template = change_saved(make_state(0)), change_template(make_state(0))
    with pytest.raises(MismatchError) as caught:
        unpack(pack(saved, 0, {}), template)
    assert str(caught.value) == message


def test_a_newer_layout_is_refused() -> None:
    state = small_state(0)
    arrays = pack(state, 0, {})
    manifest = json.loads(arrays[MANIFEST].tobytes()) | {"format": FORMAT + 1}
    arrays[MANIFEST] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    with pytest.raises(ValueError, match=f"format {FORMAT + 1} is newer than {FORMAT}"):
        unpack(arrays, state)


def test_leaves_of_one_path_are_refused() -> None:
    state = small_state(0)._replace(batch_stats={"a/b": jnp.zeros(1), "a": {"b": jnp.ones(1)}})
    with pytest.raises(ValueError, match="two leaves of the state have the path 'batch_stats/a/b'"):
        pack(state, 0, {})
