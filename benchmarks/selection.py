"""Masks of the k largest scores: supjax beside numpy, two sorts and a double argsort.

    python -m benchmarks.selection [--toy] [--output runs/benchmarks/selection.json]

Every contender makes bool masks of the largest tenth of |normal| float32 scores. `numpy.partition`
and `jnp.sort` only find the threshold, so they may select more where scores tie; the others break
ties by index. A double argsort is how JaxPruner ranks scores. The network is handled layer by
layer (a tenth of every layer) and globally (a tenth of all weights; whoever needs a single array
concatenates). About 9 minutes on 2 CPU cores.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import Timing, milliseconds_cell, print_table, time_interleaved, write_json
from benchmarks.memory import added_bytes
from benchmarks.shapes import resnet50_kernels
from supjax import global_top_k_masks, top_k_mask

OURS = "supjax"


class Case(NamedTuple):
    """One workload.

    Attributes:
      name: for the table.
      shapes: of the score arrays.
      together: whether one k holds for all arrays or each has its own.
    """

    name: str
    shapes: Sequence[tuple[int, ...]]
    together: bool = False

    @property
    def size(self) -> int:
        """Number of scores."""
        return sum(math.prod(shape) for shape in self.shapes)

    def counts(self) -> list[int]:
        """A tenth of the scores, of every array or of all together."""
        if self.together:
            return [self.size // 10]
        return [math.prod(shape) // 10 for shape in self.shapes]


def make_cases(toy: bool) -> list[Case]:
    """Single arrays from a thousand scores up, then a whole network."""
    sizes = [1_000, 4_096] if toy else [10**3, 10**4, 10**5, 10**6, 5 * 10**6, 25 * 10**6]
    network = [(3, 3, 3, 8), (72, 10)] if toy else list(resnet50_kernels().values())
    label = "two layers" if toy else "ResNet-50"
    return [
        *(Case(f"{size:,} scores", [(size,)]) for size in sizes),
        Case(f"{label}, layer by layer", network),
        Case(f"{label}, global", network, together=True),
    ]


def supjax_masks(case: Case, arrays: list[jax.Array], counts: list[jax.Array]) -> list[jax.Array]:
    """The masks of all arrays; the counts may be traced."""
    if case.together:
        return global_top_k_masks(arrays, counts[0])
    return [top_k_mask(array, k) for array, k in zip(arrays, counts, strict=True)]


def numpy_partition(scores: np.ndarray, k: int) -> np.ndarray:
    """All scores from the k-th largest up."""
    return scores >= np.partition(scores, scores.size - k)[scores.size - k]


def lax_top_k(scores: jax.Array, k: int) -> jax.Array:
    """The indices of the k largest, scattered."""
    return jnp.zeros(scores.size, bool).at[jax.lax.top_k(scores, k)[1]].set(True)


def full_sort(scores: jax.Array, k: int) -> jax.Array:
    """All scores from the k-th largest up."""
    return scores >= jnp.sort(scores)[scores.size - k]


def double_argsort(scores: jax.Array, k: int) -> jax.Array:
    """The scores of rank below k."""
    return jnp.argsort(jnp.argsort(-scores)) < k


RIVALS: dict[str, Callable[[Any, int], Any]] = {
    "numpy.partition": numpy_partition,
    "lax.top_k": lax_top_k,
    "jnp.sort": full_sort,
    "double argsort": double_argsort,
}
"""Name -> function of flat scores and k."""


def rival_masks(name: str, case: Case, arrays: list[Any]) -> list[Any]:
    """The masks of all arrays."""
    select, counts = RIVALS[name], case.counts()
    flat = [array.reshape(-1) for array in arrays]
    if case.together:
        numpy = jnp if isinstance(arrays[0], jax.Array) else np
        ends = np.cumsum([array.size for array in arrays])
        masks = numpy.split(select(numpy.concatenate(flat), counts[0]), ends[:-1])
    else:
        masks = [select(array, k) for array, k in zip(flat, counts, strict=True)]
    return [mask.reshape(array.shape) for mask, array in zip(masks, arrays, strict=True)]


def prepare(name: str, case: Case, compiled: bool = False) -> Callable[[], Any]:
    """A function that makes all masks of the case with one contender, on scores it holds.

    Args:
      name: the contender.
      case: the workload.
      compiled: compile now rather than at the first call.
    """
    generator = np.random.default_rng(0)
    arrays = [np.abs(generator.standard_normal(shape, np.float32)) for shape in case.shapes]
    if name == "numpy.partition":
        return lambda: rival_masks(name, case, arrays)
    arguments: tuple[Any, ...] = (jax.block_until_ready([jnp.asarray(a) for a in arrays]),)
    if name == OURS:
        arguments += ([jnp.int32(k) for k in case.counts()],)
        function: Any = jax.jit(lambda *arguments: supjax_masks(case, *arguments))
    else:
        function = jax.jit(lambda arrays: rival_masks(name, case, arrays))
    if compiled:
        function = function.lower(*arguments).compile()
    return lambda: function(*arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print both tables and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection")
    parser.add_argument("--toy", action="store_true", help="small arrays, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/selection.json"))
    flags = parser.parse_args(arguments)
    names = [OURS, *RIVALS]
    cases = make_cases(flags.toy)
    repetitions, budget = (3, 1.0) if flags.toy else (100, 3.0)
    times = {}
    for case in cases:
        print("timing", case.name, file=sys.stderr)
        functions = {name: prepare(name, case) for name in names}
        times[case.name] = time_interleaved(functions, repetitions, budget)
    print("Milliseconds, median (least to most), and times the median of supjax")
    print_table(
        ["", *names],
        [
            [case, *(_time_cell(taken[name], taken[OURS]) for name in names)]
            for case, taken in times.items()
        ],
    )
    weighed = [cases[-1]] if flags.toy else cases[-3:]
    names = [OURS] if flags.toy else names
    memory = {
        case.name: {name: added_bytes(prepare, name, case, True) for name in names}
        for case in weighed
    }
    print("Peak memory of a call, bytes a score (the masks are 1 of them)")
    print_table(
        ["", *names],
        [
            [case.name, *(f"{memory[case.name][name] / case.size:.1f}" for name in names)]
            for case in weighed
        ],
    )
    results = {"ratios": ratios_of(times), "seconds": times, "added_bytes": memory}
    write_json(flags.output, results)


def ratios_of(times: dict[str, dict[str, Timing]]) -> dict[str, float]:
    """Return the times of the rivals over ours, of medians."""
    return {
        f"{case}: {name} / {OURS}": taken[name].median / taken[OURS].median
        for case, taken in times.items()
        for name in RIVALS
    }


def _time_cell(timing: Timing, ours: Timing) -> str:
    return f"{milliseconds_cell(timing)}, {timing.median / ours.median:.1f}"


if __name__ == "__main__":
    main()
