"""CAA: every weight's mean over the tickets in which it is active."""

from typing import Any

import jax
import jax.numpy as jnp

from supjax.superposition.averaging import mean_leaf
from supjax.superposition.engine import Density, averaging_rule, pruned_mean
from supjax.types import AxesFn, Masks, Params, PyTree, Scalar, Superposition, Ticket


@averaging_rule
def caa(
    *, density: Density = None, scope: str = "global", axes_fn: AxesFn | None = None
) -> Superposition:
    """Return connection-aware averaging: per weight, sum over tickets / tickets that have it.

    Its own state is how often each weight was active, `a_t = (a_{t-1} + m_ticket) m_folded`: a
    weight that is pruned back is forgotten.

    Args:
      density: see `cia`.
      scope: see `cia`.
      axes_fn: see `cia`.

    Returns:
      A `Superposition`.

    Raises:
      ValueError: if density or scope is not allowed.

    Source: Yin et al., UAI 2022, ablation of averaging rules.

    >>> import jax.numpy as jnp
    >>> import supjax
    >>> make = lambda *w: supjax.Ticket({"w": jnp.array([w])}, {"w": jnp.array([w]) != 0})
    >>> rule = caa(density=1.0)
    >>> state = rule.fold(rule.init(make(4.0, 2.0, 0.0)), make(2.0, 0.0, 3.0))
    >>> rule.result(state).params["w"].tolist(), state.extra["w"].tolist()
    ([[3.0, 2.0, 3.0]], [[2.0, 1.0, 1.0]])
    """
    return pruned_mean(
        _mean,
        density=density,
        scope=scope,
        axes_fn=axes_fn,
        first_extra=_first_active,
        next_extra=_next_active,
    )


def _first_active(masks: Masks, weight: Scalar) -> PyTree:
    return jax.tree.map(lambda m: weight * m.astype(jnp.float32), masks)


def _mean(running: Params, ticket: Ticket, active: PyTree, share: Scalar, weight: Scalar) -> Params:
    def aware(old: Any, new: Any, seen: Any, mask: Any) -> Any:
        if mask is None:
            return mean_leaf(old, new, share)
        mixed = mean_leaf(old, new, weight / (seen + weight))
        return jnp.where(mask, mixed, old)

    return jax.tree.map(aware, running, ticket.params, active, ticket.masks)


def _next_active(active: PyTree, folded: Masks, ticket: Masks, weight: Scalar) -> PyTree:
    return jax.tree.map(
        lambda a, f, t: jnp.where(f, a + weight * t.astype(a.dtype), 0.0), active, folded, ticket
    )
