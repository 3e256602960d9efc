"""What the rectifier's form on CPU saves in training steps, beside the operations they consist of.

    python -m benchmarks.cpu_step [--toy] [--networks resnet32,...] [--batch_size N]
        [--output runs/benchmarks/cpu_step.json]

The dense step of a network, SGD with momentum and weight decay, float32, buffers donated: once with
`relu` as the selection that `experiments.models.activations` takes on CPU, once with the maximum of
other platforms. The two steps alternate; the ratio is the median over neighbouring pairs. Beside
the wall clock stand the processor's seconds of all threads, the measure to look at when the machine
is busy, and page faults: without huge pages for XLA's buffers a fifth of the processor's time goes
into faults (start Python with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 to see). Then the milliseconds
of convolution and batch norm in the shapes of ResNet-32's three stages. The reference PyTorch code
is timed beside this step in `benchmarks.peers`. About a minute on 2 CPU cores, half of it
compilation. Elsewhere than on CPU it compares the same two forms.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.common import chosen, print_table, time_interleaved, write_json
from benchmarks.loops import Loop
from benchmarks.training import Training
from experiments.models import MODEL_NAMES, activations
from experiments.models.layers import BatchNorm

MAXIMUM, SELECTION = "maximum", "selection"
STAGES = ((32, 16), (16, 32), (8, 64))
"""Side and channels of ResNet-32's stages."""


class Cost(NamedTuple):
    """What a call took.

    Attributes:
      seconds: on the wall clock.
      processor_seconds: of all threads, in the program and in the system for it.
      page_faults: pages that the system had to supply.
    """

    seconds: float
    processor_seconds: float
    page_faults: float


def cost(function: Callable[[], Any]) -> Cost:
    """Return the cost of a call that waits for its own results."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    wall, processor = time.perf_counter(), time.process_time()
    function()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return Cost(wall, processor, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)


def training_loop(training: Training, form: str) -> Loop:
    """Compile the dense step with the rectifier in one of its forms."""
    with mock.patch.object(activations, "on_cpu", return_value=form == SELECTION):
        return Loop(*training.dense())


def compare_steps(name: str, batch_size: int, *, toy: bool, budget: float) -> dict[str, Any]:
    """Time a network's step in both forms, in turn.

    Args:
      name: of the network.
      batch_size: images a step.
      toy: whether the network is narrow.
      budget: seconds for all pairs; there are three at least.

    Returns:
      For both forms the medians of what a step costs, and the medians of the pairs' ratios.
    """
    training = Training(name, 10, 32, batch_size, width=0.125 if toy else 1.0)
    loops = {form: training_loop(training, form) for form in (MAXIMUM, SELECTION)}
    costs: dict[str, list[Cost]] = {form: [] for form in loops}
    for loop in loops.values():
        loop()
    begin = time.perf_counter()
    while len(costs[MAXIMUM]) < 3 or time.perf_counter() - begin < budget:
        turn = list(loops) if len(costs[MAXIMUM]) % 2 else list(reversed(loops))
        for form in turn:
            costs[form].append(cost(loops[form]))
    medians = {
        form: dict(zip(Cost._fields, map(statistics.median, zip(*taken, strict=True)), strict=True))
        for form, taken in costs.items()
    }
    ratios = {
        field: statistics.median(
            getattr(second, field) / getattr(first, field)
            for first, second in zip(costs[MAXIMUM], costs[SELECTION], strict=True)
        )
        for field in ("seconds", "processor_seconds")
    }
    return medians | {"ratios": ratios, "pairs": len(costs[MAXIMUM])}


def operations(side: int, channels: int, batch_size: int) -> dict[str, Callable[[], Any]]:
    """Return compiled operations of a stage, without arguments."""
    x = jax.random.normal(jax.random.key(0), (batch_size, side, side, channels))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, channels))
    norm = BatchNorm(use_running_average=False)
    variables: Any = norm.init(jax.random.key(2), x)

    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def normalise(x: jax.Array, params: Any) -> jax.Array:
        return norm.apply(variables | {"params": params}, x, mutable=["batch_stats"])[0]

    def forward_and_backward(x: jax.Array, params: Any) -> Any:
        y, pull = jax.vjp(normalise, x, params)
        return y, pull(jnp.roll(x, 1, axis=0))

    programs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "convolution": (conv, (x, kernel)),
        "its input gradient": (lambda k, y: jax.vjp(lambda x: conv(x, k), y)[1](y), (kernel, x)),
        "its filter gradient": (lambda k, y: jax.vjp(lambda k: conv(y, k), k)[1](y), (kernel, x)),
        "batch norm and its gradients": (forward_and_backward, (x, variables["params"])),
    }

    def compiled(program: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[], Any]:
        executable = jax.jit(program).lower(*arguments).compile()
        return lambda: executable(*arguments)

    return {name: compiled(*program) for name, program in programs.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_step")
    parser.add_argument("--toy", action="store_true", help="small networks, to see that it runs")
    parser.add_argument("--networks", help="names, separated by commas; resnet32 by default")
    parser.add_argument("--batch_size", type=int, help="images a step; 128 by default")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/cpu_step.json"))
    flags = parser.parse_args(arguments)
    default = "resnet20" if flags.toy else "resnet32"
    names = chosen(parser, "network", flags.networks or default, MODEL_NAMES)
    batch_size = flags.batch_size or (2 if flags.toy else 128)
    steps = {}
    for name in names:
        print(f"compiling {name}", file=sys.stderr)
        budget = 0.0 if flags.toy else 40.0
        steps[name] = compare_steps(name, batch_size, toy=flags.toy, budget=budget)
    print(f"A training step at batch {batch_size}: medians, and selection over maximum")
    forms = (MAXIMUM, SELECTION)
    print_table(
        ["", *(f"{form}, {unit}" for form in forms for unit in ("s", "s x cores", "faults")), "x"],
        [
            [
                name,
                *(
                    text
                    for form in forms
                    for text in (
                        f"{step[form]['seconds']:.3f}",
                        f"{step[form]['processor_seconds']:.3f}",
                        f"{step[form]['page_faults']:.0f}",
                    )
                ),
                f"{step['ratios']['seconds']:.3f}",
            ]
            for name, step in steps.items()
        ],
    )
    stages = {
        f"{side} x {side} x {channels}": time_interleaved(
            operations(side, channels, batch_size), 3 if flags.toy else 30, 2.0
        )
        for side, channels in STAGES
    }
    print("Operations, milliseconds: median, least")
    print_table(
        ["", *next(iter(stages.values()))],
        [
            [stage, *(f"{1e3 * t.median:.1f}, {1e3 * t.least:.1f}" for t in times.values())]
            for stage, times in stages.items()
        ],
    )
    ratios = {
        f"{name}, {field}": ratio
        for name, step in steps.items()
        for field, ratio in step["ratios"].items()
    }
    write_json(flags.output, {"ratios": ratios, "steps": steps, "operation_seconds": stages})


if __name__ == "__main__":
    main()
