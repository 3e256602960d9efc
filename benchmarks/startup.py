"""Compilation, the time to the first step, and what a dispatch costs.

    python -m benchmarks.startup [--toy] [--output runs/benchmarks/startup.json]

Processes that start as `python -m experiments.main` does, one after the other and each in a new
folder, with the digits: the default network and ResNet-20. A process takes a training step twice
and a topology step twice; what the first call takes beyond the second is its compilation. Cold
processes have an empty compilation cache, warm ones that of a cold one; JAX keeps there what took a
second or more to compile. Seconds count from the command, so imports are among them, and the files
of all packages are in the system's memory. Then the time of a step of a tiny network: of the run's
loop with a dispatch for every step, of its loop with one for many, and of the compiled step alone
on one batch. About 3 minutes on 2 CPU cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import jax

import supjax
from benchmarks.common import Timing, print_table, time_interleaved, write_json
from benchmarks.run_epochs import run_epochs
from experiments.command_line import CONFIGS, load_config
from experiments.records.folder import RunFolder
from experiments.start_jax import start_jax
from experiments.train import open_run, restore_or_start

DIGITS = str(CONFIGS / "digits.py")
TINY = f"{DIGITS}:model=lenet_300_100,width=0.05"
STEPWISE, FUSED, ALONE = "run, stepwise", "run, fused", "compiled step alone"


def start_and_step(chosen: str, cache: str, folder: str, began: float) -> dict[str, float]:
    """Do what a new run does up to its first steps; for a process of its own.

    Args:
      chosen: config, as on the command line.
      cache: folder of the compilation cache.
      folder: of the run.
      began: the time of the clock when the process was asked for.

    Returns:
      Seconds by name.
    """
    imported = time.time()
    config = load_config(chosen)
    start_jax(compilation_cache=cache)
    taken = []
    with open_run([RunFolder(folder, config)], devices=1) as run:
        state = run.steps.place(restore_or_start(run)[0])
        ready = time.time()
        for call, rate in enumerate((None, None, 0.5, 0.5)):
            since = time.time()
            state = run.steps.advance(state, call + 1, rate)
            jax.block_until_ready((state.train.params, state.sums))
            taken.append(time.time() - since)
            if call == 0:
                stepped = time.time()
    return {
        "imports": imported - began,
        "data and initial state": ready - imported,
        "compiling the training step": taken[0] - taken[1],
        "compiling the topology step": taken[2] - taken[3],
        "start to first step": stepped - began,
    }


def child(chosen: str, cache: Path) -> dict[str, float]:
    """Run `start_and_step` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.startup", "--child", chosen, str(cache)]
        command += [folder, repr(time.time())]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def starts(chosen: str, repetitions: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of cold and of warm processes, in turn."""
    found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as folder:
            for kind in found:
                print("starting", chosen, kind, file=sys.stderr)
                found[kind].append(child(chosen, Path(folder)))
    return found


def tiny_loops(folder: str, stack: ExitStack) -> tuple[dict[str, Callable[[], Any]], int]:
    """Name -> function that takes the steps of an epoch, and how many these are."""
    functions: dict[str, Callable[[], Any]] = {}
    for name, loop in ((STEPWISE, "stepwise"), (FUSED, "fused")):
        config = load_config(TINY)
        config.runtime.loop = loop
        functions[name], steps = run_epochs([RunFolder(f"{folder}/{loop}", config)], 1, stack)
    functions[ALONE] = CompiledStep(RunFolder(f"{folder}/alone", config), steps)
    return functions, steps


class CompiledStep:
    """The same training step on one normalized batch again and again, without the run's loop."""

    def __init__(self, folder: RunFolder, steps: int) -> None:
        with open_run([folder], devices=1) as run:
            self.state = restore_or_start(run)[0].train
            self.batch = next(iter(run.steps.source.training_batches(1)))
            parts = run.parts
        step = supjax.make_train_step(parts.loss_fn, parts.tx, parts.topology)
        compiled = jax.jit(step, donate_argnums=0)
        self.compiled = compiled.lower(self.state, self.batch).compile()
        self.steps = steps

    def __call__(self) -> Any:
        """Take as many steps as an epoch has."""
        for _ in range(self.steps):
            self.state, metrics = self.compiled(self.state, self.batch)
        return self.state, metrics


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup")
    parser.add_argument("--toy", action="store_true", help="one small network, started once")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/startup.json"))
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child:
        chosen, cache, folder, began = flags.child
        print(json.dumps(start_and_step(chosen, cache, folder, float(began))))
        return
    networks = {"digits, digits_cnn": DIGITS, "digits, resnet20": f"{DIGITS}:model=resnet20"}
    if flags.toy:
        networks = {"digits, lenet_300_100": TINY}
    started = {name: starts(chosen, 1 if flags.toy else 3) for name, chosen in networks.items()}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        functions, steps = tiny_loops(folder, stack)
        epochs = time_interleaved(functions, *((3, 1.0) if flags.toy else (200, 10.0)))
    times = {
        name: Timing(t.median / steps, t.least / steps, t.most / steps, t.repetitions)
        for name, t in epochs.items()
    }
    middle = {
        name: {
            kind: {field: median(one[field] for one in found) for field in found[0]}
            for kind, found in kinds.items()
        }
        for name, kinds in started.items()
    }
    print("Seconds, medians, cold and with the compilation cache")
    print_table(
        ["", "", "cold", "warm"],
        [
            [name, field, f"{cold:.2f}", f"{kinds['warm'][field]:.2f}"]
            for name, kinds in middle.items()
            for field, cold in kinds["cold"].items()
        ],
    )
    print("Microseconds a step of a tiny network, median (least to most)")
    print_table(
        ["", "median", "least to most"],
        [
            [name, f"{1e6 * t.median:.0f}", f"{1e6 * t.least:.0f} to {1e6 * t.most:.0f}"]
            for name, t in times.items()
        ],
    )
    ratios = {
        f"{name}, {field}: warm / cold": kinds["warm"][field] / cold
        for name, kinds in middle.items()
        for field, cold in kinds["cold"].items()
        if field in ("compiling the training step", "start to first step")
    }
    ratios |= {
        f"tiny network, a step: {name} / {ALONE}": times[name].median / times[ALONE].median
        for name in (STEPWISE, FUSED)
    }
    write_json(
        flags.output,
        {
            "seconds_of_starts": started,
            "seconds_a_step": times,
            "dispatch_seconds_a_step": times[STEPWISE].median - times[FUSED].median,
            "ratios": ratios,
        },
    )


if __name__ == "__main__":
    main()
