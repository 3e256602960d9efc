"""Compiled steps on states of their own, and two of them timed in turn."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Loop:
    """A loop that stands still between calls; every call takes compiled steps and waits.

    Attributes:
      state: the current one; the old buffers go into the new ones.
      compiled: the step.
      steps: how many a call takes, to be changed at will.
    """

    def __init__(self, step: Callable[[Any, Any], Any], state: Any, data: Any) -> None:
        """Copy the state and compile `step(state, data) -> state`, which gives its old state up."""
        self.state, self._data, self.steps = jax.tree.map(jnp.copy, state), data, 1
        self.compiled = jax.jit(step, donate_argnums=0).lower(self.state, data).compile()

    def __call__(self) -> Any:
        """Take the steps and return the state."""
        for _ in range(self.steps):
            self.state = self.compiled(self.state, self._data)
        return jax.block_until_ready(self.state)

    @property
    def temporary_bytes(self) -> int:
        """Memory that the compiled step takes beside its arguments and results."""
        analysis: Any = self.compiled.memory_analysis()
        return analysis.temp_size_in_bytes


class Pairs(NamedTuple):
    """Wall-clock seconds of neighbouring calls: `first[i]` and `second[i]` ran back to back."""

    first: Sequence[float]
    second: Sequence[float]

    def over(self, steps: int) -> "Pairs":
        """Return the seconds of one step where every call took several."""
        return Pairs(*([taken / steps for taken in calls] for calls in self))

    def summary(self) -> dict[str, float]:
        """Return medians, and ratios of the second's seconds to the first's.

        `ratio` is the median over the pairs, between `ratio_lower` and `ratio_upper`, their
        quartiles; `ratio_of_medians` ignores who ran beside whom.

        >>> Pairs([1.0, 2.0, 4.0], [2.0, 2.0, 6.0]).summary()["ratio"]
        1.5
        """
        ratios = [second / first for first, second in zip(self.first, self.second, strict=True)]
        lower, middle, upper = statistics.quantiles(ratios, n=4, method="inclusive")
        first, second = statistics.median(self.first), statistics.median(self.second)
        return {
            "first": first,
            "second": second,
            "ratio": middle,
            "ratio_lower": lower,
            "ratio_upper": upper,
            "ratio_of_medians": second / first,
            "pairs": len(ratios),
        }


def time_pairs(
    first: Callable[[], Any], second: Callable[[], Any], *, most: int, budget: float
) -> Pairs:
    """Time two functions back to back, either one first in turn, so that drift cancels.

    Args:
      first: waits for its own results; called once before.
      second: likewise.
      most: pairs at most.
      budget: seconds for all; there are three pairs at least.
    """
    pairs: list[tuple[float, float]] = []
    first(), second()
    begin = time.perf_counter()
    while len(pairs) < 3 or (len(pairs) < most and time.perf_counter() - begin < budget):
        if len(pairs) % 2:
            late = seconds(second)
            pairs.append((seconds(first), late))
        else:
            pairs.append((seconds(first), seconds(second)))
    return Pairs(*zip(*pairs, strict=True))


def seconds(function: Callable[[], Any]) -> float:
    """Return the wall-clock seconds of one call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
