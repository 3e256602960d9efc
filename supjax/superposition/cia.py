"""CIA: the running mean in which an absent connection counts as zero."""

from supjax.superposition.engine import Density, averaging_rule, pruned_mean
from supjax.types import AxesFn, Superposition


@averaging_rule
def cia(
    *, density: Density = None, scope: str = "global", axes_fn: AxesFn | None = None
) -> Superposition:
    """Return connection-independent averaging, the paper's rule.

    `avg_t = avg_{t-1} + (ticket_t - avg_{t-1}) / t`, pruned back by magnitude after each fold.

    Args:
      density: share of maskable weights to keep, in (0, 1]; None keeps as many as each ticket has.
      scope: "global" prunes by one threshold over all maskable weights, "layer" keeps the tickets'
        layer densities; of a stack, those of every slice.
      axes_fn: what axes mean, `(path, leaf) -> Axes`, or None for the defaults.

    Returns:
      A `Superposition`.

    Raises:
      ValueError: if density or scope is not allowed.

    Source: Yin et al., *Superposing Many Tickets into One*, UAI 2022, section 3.

    >>> import jax.numpy as jnp
    >>> import supjax
    >>> make = lambda *w: supjax.Ticket({"w": jnp.array([w])}, {"w": jnp.array([w]) != 0})
    >>> rule = cia(density=1 / 3)
    >>> rule.result(rule.fold(rule.init(make(4.0, 2.0, 0.0)), make(2.0, 0.0, 3.0))).params["w"]
    Array([[3., 0., 0.]], dtype=float32)
    """
    return pruned_mean(density=density, scope=scope, axes_fn=axes_fn)
