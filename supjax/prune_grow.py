"""The engine of dynamic sparse training: drop k weights, grow k others, counts conserved.

All functions are pure and jit-able, take masks with `None` on dense leaves, and count in
integers. Per-layer counts are `[L]` arrays over the sparse leaves in `jax.tree.leaves` order. Where
`stacks` names stack axes of a leaf, by path, every slice along them is a layer of its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from supjax.allocation import ceil_share
from supjax.axes import Stacks, from_layers, slice_count, to_layers
from supjax.masks import check_masks, count_true, leaf_key
from supjax.selection import global_top_k_masks, top_k_mask
from supjax.trees import is_none, map_named, named_leaves
from supjax.types import Masks, Params, PyTree, Scalar, TopologyState


def magnitude(tree: Params, masks: Masks) -> PyTree:
    """Return `|w|` on sparse leaves and `None` on dense ones.

    >>> import jax.numpy as jnp
    >>> params, masks = {"b": jnp.ones(1), "k": -jnp.ones(1)}, {"b": None, "k": jnp.ones(1, bool)}
    >>> magnitude(params, masks)
    {'b': None, 'k': Array([1.], dtype=float32)}
    """
    return jax.tree.map(lambda w, m: None if m is None else jnp.abs(w), tree, masks)


def random_scores(key: jax.Array, masks: Masks) -> PyTree:
    """Return uniformly random scores in [0, 1) on sparse leaves, `None` on dense ones.

    Each leaf's key comes from its path; the key is consumed.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> random_scores(jax.random.key(0), {"w": jnp.ones((2, 3), bool)})["w"].shape
    (2, 3)
    """
    return map_named(lambda name, m: jax.random.uniform(leaf_key(key, name), m.shape), masks)


def stacked_leaves(tree: PyTree, stacks: Stacks | None) -> list[tuple[jax.Array, tuple[int, ...]]]:
    """Return every leaf with its stack axes, in `jax.tree.leaves` order; `None` is left out."""
    named = {path: leaf for path, leaf in named_leaves(tree).items() if leaf is not None}
    return [(leaf, (stacks or {}).get(path, ())) for path, leaf in named.items()]


def active_counts(masks: Masks, stacks: Stacks | None = None) -> jax.Array:
    """Return the active weights of every sparse layer, `[L]` int32.

    >>> import jax.numpy as jnp
    >>> active_counts({"a": None, "b": jnp.array([True, False])}).tolist()
    [1]
    >>> active_counts({"b": jnp.array([[True, False], [True, True]])}, {"b": (0,)}).tolist()
    [1, 2]
    """
    counts = [
        jax.vmap(count_true)(to_layers(mask, stack)) if stack else count_true(mask)[None]
        for mask, stack in stacked_leaves(masks, stacks)
    ]
    return jnp.concatenate(counts)


def layer_sizes(masks: Masks, stacks: Stacks | None = None) -> jax.Array:
    """Return the size of every sparse layer, `[L]` int32."""
    sizes: list[int] = []
    for mask, stack in stacked_leaves(masks, stacks):
        count = slice_count(mask.shape, stack)
        sizes += [mask.size // max(count, 1)] * count
    return jnp.asarray(sizes, jnp.int32)


def layer_by_layer(
    choose: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    masks: Masks,
    scores: PyTree,
    counts: jax.Array,
    stacks: Stacks | None,
) -> Masks:
    """Return the masks `choose(mask, scores, count)` of every layer.

    >>> import jax.numpy as jnp
    >>> masks, scores = {"w": jnp.ones((2, 2), bool)}, {"w": jnp.array([[1.0, 2.0], [4.0, 3.0]])}
    >>> largest = lambda mask, score, count: top_k_mask(score, count, where=mask)
    >>> layer_by_layer(largest, masks, scores, jnp.array([1, 1]), {"w": (0,)})["w"].tolist()
    [[False, True], [True, False]]
    """
    chosen, first = [], 0
    values = jax.tree.leaves(_sparse_only(scores, masks))
    for (mask, stack), score in zip(stacked_leaves(masks, stacks), values, strict=True):
        own = counts[first : first + slice_count(mask.shape, stack)]
        first += len(own)
        if stack:
            layers = jax.vmap(choose)(to_layers(mask, stack), to_layers(score, stack), own)
            chosen.append(from_layers(layers, mask.shape, stack))
        else:
            chosen.append(choose(mask, score, own[0]))
    return jax.tree.unflatten(jax.tree.structure(masks), chosen)


def drop_smallest(
    masks: Masks, scores: PyTree, counts: jax.Array, stacks: Stacks | None = None
) -> Masks:
    """Deactivate in every layer the `counts[l]` active weights with the smallest scores.

    Among equal scores the highest index goes first. Never touches an inactive place.

    Args:
      masks: current masks.
      scores: the masks' tree of floating scores.
      counts: `[L]` integers, clipped to the active counts.
      stacks: path -> stack axes, of the leaves that have some.

    Returns:
      Masks with `active_l - counts[l]` active weights.

    >>> import jax.numpy as jnp
    >>> masks, scores = {"w": jnp.array([True, True, False])}, {"w": jnp.array([2.0, 1.0, 9.0])}
    >>> drop_smallest(masks, scores, jnp.array([1]))["w"].tolist()
    [True, False, False]
    """
    kept = active_counts(masks, stacks) - jnp.asarray(counts)
    return layer_by_layer(lambda m, s, n: top_k_mask(s, n, where=m), masks, scores, kept, stacks)


def grow_largest(
    masks: Masks, scores: PyTree, counts: jax.Array, stacks: Stacks | None = None
) -> Masks:
    """Activate in every layer the `counts[l]` inactive places with the largest scores.

    Among equal scores the lowest index goes first. Active places stay active.

    Args:
      masks: current masks.
      scores: the masks' tree of floating scores.
      counts: `[L]` integers, clipped to the room in each layer.
      stacks: path -> stack axes, of the leaves that have some.

    Returns:
      Masks with `active_l + counts[l]` active weights.

    >>> import jax.numpy as jnp
    >>> masks, scores = {"w": jnp.array([True, False, False])}, {"w": jnp.array([2.0, 1.0, 9.0])}
    >>> grow_largest(masks, scores, jnp.array([1]))["w"].tolist()
    [True, False, True]
    """
    return layer_by_layer(
        lambda m, s, n: m | top_k_mask(s, n, where=~m), masks, scores, jnp.asarray(counts), stacks
    )


def prune_and_grow(
    masks: Masks,
    drop_scores: PyTree,
    grow_scores: PyTree,
    drop_fraction: Scalar,
    stacks: Stacks | None = None,
) -> Masks:
    """Move a share of every layer's active weights: drop `ceil(rate * active)`, grow as many.

    The places just dropped may be grown again; such a weight keeps its value and momentum,
    because callers multiply both by the new masks.

    Args:
      masks: current masks.
      drop_scores: the smallest of them among active weights are dropped (usually `|w|`).
      grow_scores: the largest of them among inactive places are grown.
      drop_fraction: share in [0, 1], resolved to one part in a million; may be traced.
      stacks: path -> stack axes of the leaves that hold several layers, from
        `supjax.filters.stack_axes`; without it every leaf is one layer.

    Returns:
      Masks with exactly the same count in every layer.

    Raises:
      ValueError: if trees or shapes differ (the path is named).
      TypeError: if scores are not floating or masks not bool.

    Source: Mocanu et al., *SET*, Nature Communications 2018; Evci et al., *RigL*, ICML 2020.

    >>> import jax.numpy as jnp
    >>> masks = {"w": jnp.array([True, True, False, False])}
    >>> drop, grow = {"w": jnp.array([2.0, 1.0, 0.0, 0.0])}, {"w": jnp.array([0.0, 0.0, 1.0, 3.0])}
    >>> prune_and_grow(masks, drop, grow, 0.5)["w"].tolist()
    [True, False, False, True]
    """
    counts = ceil_share(drop_fraction, active_counts(masks, stacks))
    kept = drop_smallest(masks, drop_scores, counts, stacks)
    return grow_largest(kept, grow_scores, counts, stacks)


def prune_globally(masks: Masks, scores: PyTree, keep: Scalar) -> Masks:
    """Keep the `keep` active weights with the largest scores over all layers together.

    Args:
      masks: current masks; nothing inactive is ever activated.
      scores: the masks' tree of floating scores.
      keep: weights to keep in total; if fewer are active, nothing is pruned.

    Returns:
      Masks with `min(keep, active)` active weights.

    Raises:
      ValueError: if trees or shapes differ, or an int `keep` exceeds the number of weights.
      TypeError: if scores are not floating, masks not bool or `keep` is no integer.

    >>> import jax.numpy as jnp
    >>> masks = {"a": jnp.array([True, True]), "b": jnp.array([True])}
    >>> pruned = prune_globally(masks, {"a": jnp.array([1.0, 3.0]), "b": jnp.array([2.0])}, 2)
    >>> pruned["a"].tolist(), pruned["b"].tolist()
    ([False, True], [True])
    """
    return global_top_k_masks(_sparse_only(scores, masks), keep, where=masks)


def _sparse_only(scores: PyTree, masks: Masks) -> PyTree:
    """Return the scores of sparse leaves alone, whatever stands on the dense ones."""
    check_masks(scores, masks, "scores")
    structure = jax.tree.structure(masks, is_leaf=is_none)
    flags = jax.tree.leaves(masks, is_leaf=is_none)
    values: list[Any] = jax.tree.leaves(scores, is_leaf=is_none)
    kept = [s if m is not None else None for s, m in zip(values, flags, strict=True)]
    return jax.tree.unflatten(structure, kept)


def advance(state: TopologyState, masks: Masks, extra: PyTree = ()) -> TopologyState:
    """Return the state with new masks; what they activate has from now on been active."""
    return TopologyState(masks, jax.tree.map(jnp.logical_or, state.ever_active, masks), extra)
