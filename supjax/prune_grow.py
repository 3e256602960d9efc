"""The engine of dynamic sparse training: drop k weights, grow k others, counts conserved.

All functions are pure and jit-able, take masks with `None` on dense leaves, and count in
integers. Per-layer counts are `[L]` arrays over the sparse leaves in `jax.tree.leaves` order.
"""

from typing import Any

import jax
import jax.numpy as jnp

from supjax.allocation import ceil_share
from supjax.masks import check_masks, count_true, leaf_key
from supjax.selection import global_top_k_masks, top_k_mask
from supjax.trees import is_none, map_named
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


def active_counts(masks: Masks) -> jax.Array:
    """Return the active weights of every sparse layer, `[L]` int32.

    >>> import jax.numpy as jnp
    >>> active_counts({"a": None, "b": jnp.array([True, False])}).tolist()
    [1]
    """
    return jnp.stack([count_true(m) for m in jax.tree.leaves(masks)])


def layer_sizes(masks: Masks) -> jax.Array:
    """Return the size of every sparse layer, `[L]` int32."""
    return jnp.asarray([m.size for m in jax.tree.leaves(masks)], jnp.int32)


def drop_smallest(masks: Masks, scores: PyTree, counts: jax.Array) -> Masks:
    """Deactivate in every layer the `counts[l]` active weights with the smallest scores.

    Among equal scores the highest index goes first. Never touches an inactive place.

    Args:
      masks: current masks.
      scores: the masks' tree of floating scores.
      counts: `[L]` integers, clipped to the active counts.

    Returns:
      Masks with `active_l - counts[l]` active weights.

    >>> import jax.numpy as jnp
    >>> masks, scores = {"w": jnp.array([True, True, False])}, {"w": jnp.array([2.0, 1.0, 9.0])}
    >>> drop_smallest(masks, scores, jnp.array([1]))["w"].tolist()
    [True, False, False]
    """
    kept = iter(active_counts(masks) - jnp.asarray(counts))
    return jax.tree.map(
        lambda m, s: top_k_mask(s, next(kept), where=m), masks, _sparse_only(scores, masks)
    )


def grow_largest(masks: Masks, scores: PyTree, counts: jax.Array) -> Masks:
    """Activate in every layer the `counts[l]` inactive places with the largest scores.

    Among equal scores the lowest index goes first. Active places stay active.

    Args:
      masks: current masks.
      scores: the masks' tree of floating scores.
      counts: `[L]` integers, clipped to the room in each layer.

    Returns:
      Masks with `active_l + counts[l]` active weights.

    >>> import jax.numpy as jnp
    >>> masks, scores = {"w": jnp.array([True, False, False])}, {"w": jnp.array([2.0, 1.0, 9.0])}
    >>> grow_largest(masks, scores, jnp.array([1]))["w"].tolist()
    [True, False, True]
    """
    grown = iter(jnp.asarray(counts))
    return jax.tree.map(
        lambda m, s: m | top_k_mask(s, next(grown), where=~m), masks, _sparse_only(scores, masks)
    )


def prune_and_grow(
    masks: Masks, drop_scores: PyTree, grow_scores: PyTree, drop_fraction: Scalar
) -> Masks:
    """Move a share of every layer's active weights: drop `ceil(rate * active)`, grow as many.

    The places just dropped may be grown again; such a weight keeps its value and momentum,
    because callers multiply both by the new masks.

    Args:
      masks: current masks.
      drop_scores: the smallest of them among active weights are dropped (usually `|w|`).
      grow_scores: the largest of them among inactive places are grown.
      drop_fraction: share in [0, 1], resolved to one part in a million; may be traced.

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
    counts = ceil_share(drop_fraction, active_counts(masks))
    return grow_largest(drop_smallest(masks, drop_scores, counts), grow_scores, counts)


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
