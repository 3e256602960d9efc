"""CIMA: the exponential moving average of tickets."""

from supjax.checks import check_fraction
from supjax.superposition.engine import Density, averaging_rule, pruned_mean
from supjax.types import AxesFn, Superposition


@averaging_rule
def cima(
    *,
    density: Density = None,
    scope: str = "global",
    beta: float = 0.5,
    axes_fn: AxesFn | None = None,
) -> Superposition:
    """Return the moving average `avg_t = beta avg_{t-1} + (1 - beta) ticket_t`, pruned back.

    Args:
      density: see `cia`.
      scope: see `cia`.
      beta: decay, in [0, 1].
      axes_fn: see `cia`.

    Returns:
      A `Superposition`, whose members have no weights but beta's.

    Raises:
      ValueError: if an argument is not allowed.

    Source: Yin et al., UAI 2022, ablation of averaging rules.

    >>> import jax.numpy as jnp
    >>> import supjax
    >>> make = lambda *w: supjax.Ticket({"w": jnp.array([w])}, {"w": jnp.array([w]) != 0})
    >>> rule = cima(beta=0.75)
    >>> rule.result(rule.fold(rule.init(make(4.0, 8.0)), make(8.0, 4.0))).params["w"]
    Array([[5., 7.]], dtype=float32)
    """
    check_fraction(beta, "beta")
    return pruned_mean(
        density=density,
        scope=scope,
        axes_fn=axes_fn,
        share=lambda total, weight: 1 - beta,
        weighted=False,
    )
