r"""The same steps on one device, on several, and in two processes: what working together costs.

    python -m benchmarks.scaling [--toy] [--config FILE.py:words] [--output FILE.json]

An epoch as in a run, by the run's own steps, over 1, 2 and 4 devices that XLA makes of one CPU and
by two processes with one device each, which talk to each other as hosts of a cluster do. The
batch over all devices together is the same and so are the cores, so these are overheads and no
speed-up; on other platforms than CPU nothing is measured. Every contender has processes of its
own, which sleep while another one runs; the epochs are interleaved. No topology step, ticket or
evaluation is timed. About 1 minute on 2 CPU cores with the digits.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.common import print_table, time_interleaved, write_json
from benchmarks.run_epochs import run_epochs
from experiments.command_line import load_config
from experiments.records.folder import RunFolder


class Contender(NamedTuple):
    """How the work is spread."""

    processes: int
    devices: int  # of every process

    @property
    def name(self) -> str:
        """As in the table."""
        if self.processes > 1:
            return f"{self.processes} processes"
        return f"{self.devices} device{'s' * (self.devices > 1)}"


CONTENDERS = (Contender(1, 1), Contender(1, 2), Contender(1, 4), Contender(2, 1))


class Workers:
    """The processes of a contender; they train an epoch whenever they are told to."""

    def __init__(
        self, contender: Contender, config: str, folder: Path, toy: bool, stack: ExitStack
    ) -> None:
        """Start them; the stack ends them."""
        server = f"127.0.0.1:{free_port()}" if contender.processes > 1 else ""
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
            f"--xla_force_host_platform_device_count={contender.devices}",
        }
        command = [sys.executable, "-m", "benchmarks.scaling", "--config", config]
        command += ["--toy"] if toy else []
        self._children = []
        for index in range(contender.processes):
            role = ["--worker", str(folder), str(contender.processes), str(index), server]
            child = subprocess.Popen(
                [*command, *role],
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.enter_context(child)
            stack.callback(child.kill)
            self._children.append(child)
        self.steps = int(self._answers()[0])

    def __call__(self) -> None:
        """Train an epoch and wait for its end."""
        for child in self._children:
            print(file=child.stdin, flush=True)
        self._answers()

    def _answers(self) -> list[str]:
        """Return the next line of every process."""
        lines = [child.stdout.readline() for child in self._children if child.stdout]
        if not all(lines):
            raise RuntimeError("a process of the benchmark has ended early; see above")
        return lines


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def work(config_name: str, toy: bool, role: Sequence[str]) -> None:
    """Be one process: say how many steps an epoch has, then train one for every line read."""
    folder, processes, index, server = role
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # where libraries write what they like
    if server:
        jax.distributed.initialize(server, int(processes), int(index))
    config = load_config(config_name)
    if toy:
        config.model.update({"name": "lenet_300_100", "width": 0.05})
    with ExitStack() as stack:
        folders = [RunFolder(folder, config)]
        epoch, steps = run_epochs(folders, jax.local_device_count(), stack)
        jax.block_until_ready(epoch())
        print(steps, file=answers, flush=True)
        for _ in sys.stdin:
            jax.block_until_ready(epoch())
            print("done", file=answers, flush=True)


def contenders(
    chosen: Sequence[Contender], config: str, toy: bool, folder: Path, stack: ExitStack
) -> tuple[dict[str, Callable[[], Any]], int]:
    """Return a function for every contender, by name, and the steps that a call of it takes."""
    functions: dict[str, Callable[[], Any]] = {}
    for contender in chosen:
        print(f"starting {contender.name}", file=sys.stderr)
        workers = Workers(contender, config, folder / contender.name, toy, stack)
        functions[contender.name] = workers
    return functions, workers.steps


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    parser.add_argument("--toy", action="store_true", help="a narrow network, fewer contenders")
    parser.add_argument("--config", default="experiments/configs/digits.py", help="FILE.py:words")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/scaling.json"))
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.worker:
        work(flags.config, flags.toy, flags.worker)
        return
    chosen = (*CONTENDERS[:2], CONTENDERS[-1]) if flags.toy else CONTENDERS
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        functions, steps = contenders(chosen, flags.config, flags.toy, Path(folder), stack)
        times = time_interleaved(functions, *((3, 0.0) if flags.toy else (60, 15.0)))
    alone = times[CONTENDERS[0].name].median
    ratios = {f"{name}, over 1 device": taken.median / alone for name, taken in times.items()}
    print("Milliseconds a step at the same batch over all, median (least to most)")
    print_table(
        ["", "median", "least to most", "more than 1 device", "over 1 device"],
        [
            [
                name,
                f"{1e3 * taken.median / steps:.2f}",
                f"{1e3 * taken.least / steps:.2f} to {1e3 * taken.most / steps:.2f}",
                f"{1e3 * (taken.median - alone) / steps:+.2f}",
                f"{ratio:.2f}",
            ]
            for (name, taken), ratio in zip(times.items(), ratios.values(), strict=True)
        ],
    )
    results = {"config": flags.config, "steps_an_epoch": steps, "seconds_an_epoch": times}
    write_json(flags.output, {"ratios": ratios, **results})


if __name__ == "__main__":
    main()
