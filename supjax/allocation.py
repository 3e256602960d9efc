"""Exact integer counts: a share of a count, and a total split over layers.

Counts stay integers throughout: float32 is wrong above 2^24 weights.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp

RATE_UNIT = 1_000_000
"""Traced rates are resolved to one part in a million; counts derived from them are exact."""


def exact(value: float | int | str | Fraction) -> Fraction:
    """Return the number that was written: 0.29 becomes 29/100, not its binary neighbour.

    >>> exact(0.29)
    Fraction(29, 100)
    """
    try:
        return value if isinstance(value, Fraction) else Fraction(str(value))
    except ValueError:
        raise ValueError(f"not a finite number: {value!r}") from None


def budget(density: float, size: int) -> int:
    """Return `round(density * size)`, half up, in exact arithmetic.

    >>> budget(0.05, 25_502_912), budget(0.5, 5)
    (1275146, 3)
    """
    return int(exact(density) * size + Fraction(1, 2))


def ceil_share(rate: Any, count: Any) -> Any:
    """Return `ceil(rate * count)` exactly, with `rate` resolved to 1e-6; both may be traced.

    The product needs up to 46 bits, so it is built from two three-digit limbs in uint32.

    Args:
      rate: share in [0, 1].
      count: non-negative integer below 2^31.

    Returns:
      An int32 scalar array.

    >>> int(ceil_share(0.3, 10)), int(ceil_share(0.5, 33_554_431))
    (3, 16777216)
    """
    unit = jnp.uint32(RATE_UNIT)
    parts = jnp.clip(jnp.round(jnp.asarray(rate) * RATE_UNIT), 0, RATE_UNIT).astype(jnp.uint32)
    count = jnp.asarray(count).astype(jnp.uint32)
    whole, rest = count // unit, count % unit
    p1, p0 = parts // 1000, parts % 1000
    r1, r0 = rest // 1000, rest % 1000
    low = (p1 * r0 + p0 * r1) * 1000 + p0 * r0
    return (parts * whole + p1 * r1 + (low + unit - 1) // unit).astype(jnp.int32)


def largest_remainder(
    shares: Sequence[Fraction], caps: Sequence[int], total: int, floor: int = 0
) -> list[int]:
    """Round shares to integers that add up to `min(total, sum(caps))`, never above their caps.

    Every count is its share rounded down, then the largest remainders get one more each (the
    first of equals wins). `floor` lifts smaller counts at the expense of the largest ones, as
    far as caps and the total allow.

    >>> largest_remainder([Fraction(3, 2), Fraction(3, 2), Fraction(1, 10)], [9, 9, 9], total=3)
    [2, 1, 0]
    """
    total = min(total, sum(caps))
    counts = [min(int(s), c) for s, c in zip(shares, caps, strict=True)]
    order = sorted(range(len(shares)), key=lambda i: (int(shares[i]) - shares[i], i))
    while sum(counts) < total:
        for i in order:
            if counts[i] < caps[i] and sum(counts) < total:
                counts[i] += 1
    lifted = [min(floor, cap) for cap in caps]
    if sum(lifted) <= total:
        for i, least in enumerate(lifted):
            while counts[i] < least:
                donor = max(range(len(counts)), key=lambda j: counts[j] - lifted[j])
                counts[donor] -= 1
                counts[i] += 1
    return counts


def apportion(total: Any, weights: jax.Array, caps: jax.Array) -> jax.Array:
    """Split an integer total over layers in proportion to weights, never above the caps.

    `n_l = min(floor(total * w_l / sum w), cap_l)`; what is then left over is shared out again
    over the layers with room, and the last few units go to the first layers with room.

    Args:
      total: integer to hand out; at most `sum(caps)` of it is.
      weights: `[L]` non-negative numbers; all zero counts as all equal.
      caps: `[L]` integers, the room in every layer.

    Returns:
      `[L]` int32 counts that add up to `min(total, sum(caps))`. May be traced.

    >>> apportion(10, jnp.array([3.0, 1.0, 1.0]), jnp.array([4, 9, 1])).tolist()
    [4, 5, 1]
    """
    caps = jnp.asarray(caps, jnp.int32)
    weights = jnp.asarray(weights, jnp.float32)
    counts = jnp.zeros_like(caps)
    for _ in range(4):
        left = total - jnp.sum(counts)
        room = caps - counts
        open_weights = jnp.where(room > 0, weights, 0.0)
        even = jnp.where(room > 0, 1.0, 0.0)
        open_weights = jnp.where(jnp.sum(open_weights) > 0, open_weights, even)
        share = open_weights / jnp.maximum(jnp.sum(open_weights), jnp.finfo(jnp.float32).tiny)
        extra = jnp.minimum(jnp.floor(left * share).astype(jnp.int32), room)
        before = jnp.cumsum(extra) - extra
        counts = counts + jnp.clip(left - before, 0, extra)
    left = total - jnp.sum(counts)
    room = caps - counts
    before = jnp.cumsum(room) - room
    return counts + jnp.clip(left - before, 0, room)
