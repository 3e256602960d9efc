"""Bit-exactness and size of packed training states, and what happens when they do not fit."""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax.sharding import NamedSharding, PartitionSpec

import supjax
from experiments.checkpoints.format import FORMAT, MANIFEST, MismatchError, pack, unpack
from experiments.run.steps import RunState
from supjax.parallel import data_parallel
from supjax.types import TopologyState
from tests.helpers.checkpoint_states import PHASES, RULES, bits, make_state, odd_state, small_state
from tests.helpers.strategies import masked_trees

Change = Callable[[RunState], RunState]


def test_every_kind_of_leaf_comes_back_bit_for_bit() -> None:
    state = odd_state()
    restored, step, info = unpack(pack(state, 7, {"loss": 0.1}), state)
    assert bits(restored) == bits(state)
    assert (step, info) == (7, {"loss": 0.1})


@given(masked_trees())
def test_any_tree_comes_back_bit_for_bit(tree: tuple) -> None:
    params, masks = tree
    state = small_state(0)._replace(params=params, topology=TopologyState(masks, masks))
    assert bits(unpack(pack(state, 0, {}), state)[0]) == bits(state)


@pytest.mark.parametrize("saved", PHASES)
@pytest.mark.parametrize("phase", PHASES[1:])
def test_the_checkpoint_says_whether_there_is_a_superposition(saved: str, phase: str) -> None:
    state, template = make_state(1, saved), make_state(2, phase)
    if saved != "normal" and RULES[saved] != RULES[phase]:
        with pytest.raises(MismatchError, match="superposition/extra/"):
            unpack(pack(state, 1, {}), template)
        return
    restored = unpack(pack(state, 1, {}), template)[0]
    assert bits(restored) == bits(state)


def test_a_template_of_shapes_is_enough() -> None:
    state = make_state(1, "superposed")
    template = jax.eval_shape(lambda other: other, make_state(0, "superposed"))
    assert bits(unpack(pack(state, 1, {}), template)[0]) == bits(state)


def test_numpy_leaves_come_back_as_jax_arrays() -> None:
    state = small_state(3)
    assert bits(unpack(pack(jax.device_get(state), 3, {}), state)[0]) == bits(state)


def test_a_mask_takes_one_bit_and_a_sparse_weight_little_more_than_its_density() -> None:
    state = make_state(0, width=64)
    arrays = pack(state, 0, {})
    weights = state.train.params["head"]["kernel"]
    kept = int(jnp.count_nonzero(weights))
    assert arrays["leaves/train/topology/masks/head/kernel"].nbytes == weights.size // 8
    assert arrays["leaves/train/params/head/kernel"].nbytes == weights.size // 8 + 4 * kept
    assert arrays["leaves/train/params/conv/bias"].nbytes == 4 * 64


def test_a_state_on_all_devices_comes_back_on_one() -> None:
    state = make_state(1, "superposed")
    everywhere = data_parallel(lambda s, x: s)(state, jnp.zeros(4))
    assert len(everywhere.train.params["head"]["kernel"].devices()) == 4
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
    expected = jax.tree.map(lambda w: w + 1, state.train.params)
    assert bits(step(restored.train.params)) == bits(expected)


def with_training(state: RunState, **fields: Any) -> RunState:
    return state._replace(train=state.train._replace(**fields))


def unchanged(state: RunState) -> RunState:
    return state


def narrower(state: RunState) -> RunState:
    del state
    return make_state(0, width=5)


def without_bias(state: RunState) -> RunState:
    params = state.train.params
    kernels = {"conv": {"kernel": params["conv"]["kernel"]}, "head": params["head"]}
    return with_training(state, params=kernels)


def in_bfloat16(state: RunState) -> RunState:
    return with_training(
        state, params=jax.tree.map(lambda w: w.astype(jnp.bfloat16), state.train.params)
    )


def with_another_key(state: RunState) -> RunState:
    return with_training(state, rng=jax.random.key(0, impl="rbg"))


def with_superposition(state: RunState) -> RunState:
    return state._replace(superposition=supjax.make_superposition("cia").init(state.train.ticket))


def with_another_superposition(state: RunState) -> RunState:
    first = with_superposition(state).superposition
    ticket = first.ticket._replace(params=without_bias(state).train.params)
    return state._replace(superposition=first._replace(ticket=ticket))


def without_masks(state: RunState) -> RunState:
    topology = state.train.topology
    none = jax.tree.map(lambda mask: None, topology.masks)
    return with_training(state, topology=topology._replace(masks=none))


CHANGES: dict[str, tuple[Change, Change]] = {
    "train/params/conv/bias is float32[5] in the checkpoint, float32[6] in this run": (
        narrower,
        unchanged,
    ),
    "train/params/conv/bias is float32[6] in the checkpoint, bfloat16[6] in this run": (
        unchanged,
        in_bfloat16,
    ),
    "train/params/conv/bias is only in the checkpoint": (unchanged, without_bias),
    "train/params/conv/bias is missing in the checkpoint": (without_bias, unchanged),
    "train/topology/masks/conv/kernel is missing in the checkpoint": (without_masks, unchanged),
    "train/topology/masks/conv/kernel is only in the checkpoint": (unchanged, without_masks),
    "train is missing in the checkpoint": (lambda state: state._replace(train=None), unchanged),
    "sums is missing in the checkpoint": (lambda state: state._replace(sums=None), unchanged),
    "train/rng is key<rbg>[] in the checkpoint, key<fry>[] in this run": (
        with_another_key,
        unchanged,
    ),
    "superposition/ticket/params/conv/bias is missing in the checkpoint": (
        with_another_superposition,
        with_superposition,
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_another_state_is_refused_by_its_first_difference(message: str) -> None:
    change_saved, change_template = CHANGES[message]
    saved, template = change_saved(make_state(0)), change_template(make_state(0))
    with pytest.raises(MismatchError) as caught:
        unpack(pack(saved, 0, {}), template)
    assert str(caught.value) == message


def test_another_layout_is_refused() -> None:
    state = small_state(0)
    arrays = pack(state, 0, {})
    manifest = json.loads(arrays[MANIFEST].tobytes()) | {"format": FORMAT + 1}
    arrays[MANIFEST] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    with pytest.raises(MismatchError, match=f"format is {FORMAT + 1}, this program's is {FORMAT}"):
        unpack(arrays, state)


def test_leaves_of_one_path_are_refused() -> None:
    state = small_state(0)._replace(batch_stats={"a/b": jnp.zeros(1), "a": {"b": jnp.ones(1)}})
    with pytest.raises(ValueError, match="two leaves of the state have the path 'batch_stats/a/b'"):
        pack(state, 0, {})
