"""The seeds that train together: a leading axis of their state."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from supjax.types import PyTree


class SeedAxis:
    """A leading axis of every leaf with one entry a seed; a single seed has no such axis.

    What is written for one seed's trees is lifted to all seeds at once, so that nothing else has
    to know how many there are.

    >>> together = SeedAxis([3, 4])
    >>> state = together.stack([{"w": jnp.ones(2)}, {"w": jnp.zeros(2)}])
    >>> together.lift(lambda tree: tree["w"].sum())(state).tolist()
    [2.0, 0.0]
    >>> together.split(state)[1]["w"].tolist(), together.label(1)
    ([0.0, 0.0], 'seed 4: ')
    >>> SeedAxis([3]).stack([{"w": 1.0}])
    {'w': 1.0}
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = tuple(seeds)
        self._single = len(self.seeds) == 1

    def lift(self, function: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        """Return a function of one seed's trees as the function of all seeds' trees.

        Args:
          function: pure; its results have the axis as well.
          in_axes: as `jax.vmap`: 0 for arguments with the axis, None for those without.
        """
        return function if self._single else jax.vmap(function, in_axes=in_axes)

    def stack(self, trees: Sequence[PyTree]) -> PyTree:
        """Return the trees of all seeds, in their order, as one."""
        if self._single:
            return trees[0]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    def split(self, tree: PyTree) -> list[PyTree]:
        """Return the tree of every seed."""
        if self._single:
            return [tree]
        return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(len(self.seeds))]

    def label(self, index: int) -> str:
        """Return how a line about one of several seeds begins; empty for a single one."""
        return "" if self._single else f"seed {self.seeds[index]}: "
