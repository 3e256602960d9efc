"""Training states for the tests of checkpoints, and the child processes that save them."""

import functools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

import supjax
from experiments.checkpoints.manager import Checkpoints
from experiments.run.steps import RunState, zero_sums
from supjax.parallel import data_parallel
from supjax.training import TrainState, create_train_state
from supjax.types import TopologyState

PHASES = ("normal", "superposed", "superposed by caa")

RULES = {phase: "caa" if phase.endswith("caa") else "cia" for phase in PHASES}


@functools.cache
def make_state(seed: int, phase: str = "normal", width: int = 6) -> RunState:
    """A run's state as training leaves it: momentum, masks, statistics, perhaps a superposition."""
    rng = np.random.RandomState(seed)
    params = {
        "conv": {"kernel": rng.randn(3, 3, 2, width), "bias": rng.randn(width)},
        "head": {"kernel": rng.randn(width, width)},
    }
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), params)
    tx = optax.sgd(0.1, momentum=0.9)
    topology = supjax.make_topology("rigl", density=0.3)
    stats = {"norm": {"mean": jnp.asarray(rng.randn(width), jnp.float32)}}
    state = create_train_state(jax.random.key(seed), params, tx, topology, batch_stats=stats)
    moved = tx.update(state.params, state.opt_state, state.params)[1]
    state = state._replace(step=jnp.int32(seed), opt_state=moved)
    run = RunState(state, zero_sums())
    if phase == "normal":
        return run
    rule = supjax.make_superposition(RULES[phase])
    return run._replace(superposition=jax.jit(rule.init)(state.ticket))


def small_state(seed: int) -> TrainState:
    """A state that is made without a compilation, with an old-style key."""
    rng = np.random.RandomState(seed)
    masks = rng.rand(9, 9) < 0.5
    params = rng.randn(9, 9).astype(np.float32) * masks
    topology = TopologyState({"w": masks}, {"w": masks})
    key = np.array([0, seed], np.uint32)
    state = TrainState(np.int32(seed), {"w": params}, {}, (), topology, key)
    return jax.tree.map(jnp.asarray, state)


def odd_state() -> TrainState:
    """Every kind of leaf that could lose a bit on its way."""
    nans = np.array([0x7FC12345, 0xFFC00001, 0x7F800001, 0x80000000, 1], np.uint32)
    params = {
        "bfloat16": jnp.asarray(np.arange(12).reshape(3, 4) / 7, jnp.bfloat16),
        "empty": jnp.zeros((0, 3)),
        "float8": jnp.arange(3, dtype=jnp.float8_e4m3fn),
        "minus zero": -jnp.zeros((4, 5)),
        "nan": jnp.asarray(nans.view(np.float32)),
        "one": jnp.float32(0.1),
        "sparse nan": jnp.zeros((40,)).at[7].set(nans.view(np.float32)[1]),
    }
    masks = dict.fromkeys(params)
    masks |= {
        "bfloat16": jnp.asarray(np.arange(12).reshape(3, 4) % 3 == 0),
        "empty": jnp.zeros((0, 3), bool),
    }
    extra = {
        "int8": jnp.arange(-3, 3, dtype=jnp.int8),
        "uint32": jnp.uint32(2**32 - 1),
        "complex": jnp.complex64(1 - 2j),
        "flag": jnp.array(True),
        "keys": jax.random.split(jax.random.key(1), (2, 3)),
        "none": None,
        "nothing": (),
        "weak": jnp.asarray(0.1),
        "weak int": jnp.asarray(3),
    }
    return TrainState(
        step=jnp.int32(7),
        params=params,
        batch_stats={},
        opt_state=(optax.EmptyState(), [jax.tree.map(jnp.ones_like, params)]),
        topology=TopologyState(masks, masks, extra),
        rng=jax.random.key(5, impl="rbg"),
    )


def bits(tree: Any) -> list[tuple[Any, ...]]:
    """All that makes a tree what it is: paths, dtypes, shapes, weak types, bit patterns."""

    def leaf_bits(leaf: Any) -> tuple[Any, ...]:
        if isinstance(leaf, int | float):
            return type(leaf), leaf
        weak = getattr(leaf, "weak_type", False)
        raw = leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raw = jax.random.key_data(leaf)
        return str(leaf.dtype), leaf.shape, weak, np.asarray(raw).tobytes()

    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [(str(structure),), *((jax.tree_util.keystr(p), *leaf_bits(x)) for p, x in flat)]


def save_until_killed(workdir: Path) -> None:
    """Save one step after another, each of them twice, and say so after each."""
    checkpoints = Checkpoints(workdir, keep=2)
    for step in range(10**6):
        state = small_state(step)
        for _ in range(2):
            checkpoints.save(step, state, {})
            print(step, flush=True)


def save_and_die_at_every_file_operation(folder: Path) -> None:
    """Run one short series of saves again and again, killed one file operation later each time.

    Every series has its own numbered folder, with a file `announced` for the last step whose save
    returned. The last series is the one that comes to its end.
    """
    for deadline in range(1000):
        workdir = folder / f"{deadline:03}"
        child = os.fork()
        if child == 0:
            _die_at_file_operation(deadline, workdir)
            _short_series(workdir)
            sys.exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != -signal.SIGKILL:
            sys.exit(status)


def _short_series(workdir: Path) -> None:
    checkpoints = Checkpoints(workdir, keep=1)
    for step in (0, 1, 1):
        checkpoints.save(step, small_state(step), {})
        Path(f"{workdir}.announced").write_text(str(step))


def _die_at_file_operation(deadline: int, workdir: Path) -> None:
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        inside = f"{workdir}/"
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and any(
            str(arg).startswith(inside) for arg in args
        ):
            if seen == deadline:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(hook)


def save_as_one_of_two(workdir: Path, index: str, port: str) -> None:
    """Train one step on two processes of two devices each; the first one saves, both restore."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))

    def step(state: TrainState, x: jax.Array) -> TrainState:
        total = jax.lax.psum(jnp.sum(x), "batch")
        return state._replace(params=jax.tree.map(lambda w: w + total, state.params))

    state = small_state(5)._replace(rng=jax.random.key(5))
    trained = data_parallel(step)(state, jnp.full((2, 3), 1.0 + int(index)))
    mesh = jax.sharding.Mesh(jax.devices(), "all")
    spread = jax.jit(lambda: state.rng, out_shardings=NamedSharding(mesh, PartitionSpec()))()
    assert not spread.is_fully_addressable
    checkpoints = Checkpoints(workdir, primary=index == "0")
    checkpoints.save(5, trained._replace(rng=spread), {})
    multihost_utils.sync_global_devices("saved")
    found = checkpoints.restore_latest(state)
    expected = state._replace(params=jax.tree.map(lambda w: w + 18, state.params))
    assert found is not None
    assert bits(found[0]) == bits(expected)


def save_as_an_absl_program(workdir: Path) -> None:
    """Save, restore and pass over a damaged checkpoint under absl's logging."""

    def main(argv: list[str]) -> None:
        checkpoints = Checkpoints(workdir, keep=2)
        for step in (1, 2, 3, 4):
            checkpoints.save(step, small_state(step), {})
        os.truncate(workdir / "checkpoints" / "4" / "state.npz", 100)
        Checkpoints(workdir).restore_latest(small_state(0))
        checkpoints.save(3, small_state(3), {})
        checkpoints.save(2, small_state(2), {})
        print(checkpoints.steps())
        checkpoints.close()

    app.run(main, argv=[sys.argv[0]])


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
