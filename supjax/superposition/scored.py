"""Superpose by a score on held-out data: rules that leave out what does not help."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from supjax.checks import check_choice, check_density
from supjax.paired import check_losses, paired_difference
from supjax.superposition.engine import SCOPES, SUPERPOSITIONS
from supjax.superposition.members import as_tickets
from supjax.superposition.superpose import common_budget, rule_of
from supjax.types import AxesFn, LeafFilter, Superposition, SuperpositionState, Ticket

RULES = ("greedy", "pools", "guard")
"""The rules that look at held-out losses."""

LEAST_IMAGES = 500
"""A choice on fewer held-out examples is refused: on 200 it fitted them, and the test stayed."""

POOL_SHARES = (0.05, *(round(0.1 * i, 1) for i in range(1, 10)), 0.95)
"""Shares of the new member that `pools` tries."""

Score = Callable[[Ticket], Any]
"""`(ticket) -> losses (examples,)`, always of the same held-out examples; lower is better."""

Prepare = Callable[[Ticket, Sequence[Ticket], Sequence[float]], Ticket]
"""`(candidate, its members, their shares) -> candidate` as it would be used."""


class Candidate(NamedTuple):
    """One network that was scored.

    Attributes:
      name: what it is.
      members: `(index of the ticket, its share in the mean)`; the shares add up to 1. A rule with
        weights of its own (`cima`, `caa`, `stock`) is listed with equal ones.
      loss: mean loss over the held-out examples.

    >>> Candidate("ticket 0", ((0, 1.0),), 0.25).loss
    0.25
    """

    name: str
    members: tuple[tuple[int, float], ...]
    loss: float


class Choice(NamedTuple):
    """What `superpose_scored` took, and what it rests on; plain numbers and strings.

    Attributes:
      rule: the rule that chose.
      name: the candidate that it took.
      members: see `Candidate`.
      loss: mean held-out loss of the choice.
      standard_error: of that mean, over the examples.
      images: how many held-out examples there are.
      candidates: all that were scored, in that order.

    >>> Choice._fields
    ('rule', 'name', 'members', 'loss', 'standard_error', 'images', 'candidates')
    """

    rule: str
    name: str
    members: tuple[tuple[int, float], ...]
    loss: float
    standard_error: float
    images: int
    candidates: tuple[Candidate, ...]


class _Scored(NamedTuple):
    """A candidate with its network, as it was scored, and its losses."""

    candidate: Candidate
    ticket: Ticket
    losses: np.ndarray

    @property
    def loss(self) -> float:
        return self.candidate.loss

    @property
    def place(self) -> int:
        """Which ticket a single one is."""
        return self.candidate.members[0][0]


class _Judge:
    """Prepares and scores candidates, and keeps the table of them."""

    def __init__(
        self, tickets: Sequence[Ticket], score: Score, prepare: Prepare | None, least: int
    ) -> None:
        self.tickets = tickets
        self.table: list[Candidate] = []
        self._score, self._prepare, self._least = score, prepare, least
        self._images: int | None = None

    def judge(self, name: str, ticket: Ticket, shares: dict[int, float]) -> _Scored:
        """Return one candidate after preparing and scoring it."""
        if self._prepare is not None:
            members = [self.tickets[i] for i in shares]
            ticket = self._prepare(ticket, members, list(shares.values()))
        losses = np.asarray(check_losses(self._score(ticket), "what score returns"), np.float64)
        self._check_images(losses.size)
        mean = float(losses.mean())
        found = Candidate(name, tuple(shares.items()), mean if mean == mean else float("inf"))
        self.table.append(found)
        return _Scored(found, ticket, losses)

    def _check_images(self, images: int) -> None:
        if images < self._least:
            raise ValueError(
                f"score gave {images} losses: a choice needs at least {LEAST_IMAGES} held-out "
                "examples, or force=True"
            )
        if self._images not in (None, images):
            raise ValueError(
                f"score must use the same examples every time: {images} losses after {self._images}"
            )
        self._images = images


def superpose_scored(
    tickets: Any,
    score: Score,
    *,
    rule: str = "guard",
    inner: str | Superposition = "cia",
    density: float | None = None,
    scope: str = "global",
    prepare: Prepare | None = None,
    force: bool = False,
    filter_fn: LeafFilter | None = None,
    axes_fn: AxesFn | None = None,
) -> tuple[Ticket, Choice]:
    """Superpose tickets by a rule that looks at held-out losses, and may leave tickets out.

    - "greedy" sorts the tickets by loss and adds the next one to the mean if the loss does not get
      worse.
    - "pools" sorts as well, and tries for the next ticket `(1 - a) mean + a ticket` with a in
      `POOL_SHARES`; it keeps the best if that is better.
    - "guard" takes, of the last ticket, the best ticket and the superposition by `inner`, the first
      whose mean loss lies within one paired standard error of the lowest: the last ticket is what
      training gives without any choice, and a superposition has to be worth its name. So its loss
      is never above the last ticket's.

    Every mean is pruned back by the code of `superpose`, after every fold, to the same density;
    every candidate, single tickets included, goes through `prepare` before it is scored.

    Args:
      tickets: as `superpose` takes them, in the order of training; the last is the last ticket.
      score: `(ticket) -> losses`, floating-point, shape `(examples,)`: the loss of every held-out
        example, lower is better, such as the negative log-likelihood. The same examples in the
        same order every time, and never those of the test split.
      rule: "greedy", "pools" or "guard".
      inner: of "guard", the rule it watches over: "greedy", "pools", a name in `SUPERPOSITIONS` or
        a `Superposition`, which brings its own density and scope.
      density: see `superpose`.
      scope: see `superpose`.
      prepare: `(candidate, members, shares) -> candidate`: what is done to a network before it is
        used, such as `recompute_batch_stats` or `repair`. A single ticket comes as its own only
        member. What is returned has been through it.
      force: whether fewer than `LEAST_IMAGES` examples may decide.
      filter_fn: see `superpose`.
      axes_fn: see `superpose`.

    Returns:
      The network, of exact density, and a `Choice`, which goes into a summary by `_asdict()`.

    Raises:
      ValueError: if an option is unknown, there are too few losses or not the same number every
        time, no candidate has a finite loss, or as `superpose`.
      TypeError: if losses are not floating-point, or as `superpose`.

    Source: Wortsman et al., *Model soups*, ICML 2022, recipe 1 (greedy); Yin et al., *Lottery
    pools*, AAAI 2023 (pools; here from the best ticket down); guard is supjax's own.

    >>> import jax.numpy as jnp
    >>> good, bad = ({"w": jnp.array([[4.0, x, 0.0]])} for x in (2.0, -9.0))
    >>> def score(ticket):  # of 500 examples that all want (4, 2, 0)
    ...     return jnp.full(500, jnp.sum(jnp.abs(ticket.params["w"] - good["w"])))
    >>> ticket, choice = superpose_scored([bad, good, good], score, rule="greedy")
    >>> ticket.params["w"].tolist(), choice.members
    ([[4.0, 2.0, 0.0]], ((2, 0.5), (1, 0.5)))
    """
    check_choice(rule, "rule", RULES)
    check_choice(scope, "scope", SCOPES)
    if density is not None:
        check_density(density)
    if not isinstance(inner, Superposition):
        check_choice(inner, "inner", (*_BY_SCORE, *SUPERPOSITIONS))
    members = as_tickets(tickets, filter_fn, density)
    allowed = common_budget(members, density, scope, axes_fn)
    options = (allowed, scope, 0.5, axes_fn)
    mean = rule_of("cia", *options)
    judge = _Judge(members, score, prepare, least=0 if force else LEAST_IMAGES)
    singles = [
        judge.judge(f"ticket {i}", mean.result(mean.init(ticket)), {i: 1.0})
        for i, ticket in enumerate(members)
    ]
    if rule == "guard":
        found = _guard(singles, _superposed(judge, singles, inner, mean, options))
    else:
        found = _BY_SCORE[rule](judge, singles, mean)
    if not np.isfinite(found.loss):
        raise ValueError(f"none of {len(judge.table)} candidates has a finite mean loss")
    error = float(paired_difference(found.losses, np.zeros_like(found.losses)).standard_error)
    name, shares, loss = found.candidate
    choice = Choice(rule, name, shares, loss, error, found.losses.size, tuple(judge.table))
    return found.ticket, choice


def _by_loss(singles: Sequence[_Scored]) -> list[_Scored]:
    """Return single tickets from the best down; of equal ones, the later first."""
    return sorted(singles, key=lambda scored: (scored.loss, -scored.place))


def _greedy(judge: _Judge, singles: Sequence[_Scored], mean: Superposition) -> _Scored:
    best, *others = _by_loss(singles)
    taken = [best.place]
    state = mean.init(judge.tickets[taken[0]])
    for other in others:
        tried = mean.fold(state, judge.tickets[other.place])
        shares = dict.fromkeys([*taken, other.place], 1 / (len(taken) + 1))
        found = judge.judge(_name(shares), mean.result(tried), shares)
        if found.loss <= best.loss:
            best, state, taken = found, tried, list(shares)
    return best


def _pools(judge: _Judge, singles: Sequence[_Scored], mean: Superposition) -> _Scored:
    best, *others = _by_loss(singles)
    shares = dict(best.candidate.members)
    state: SuperpositionState = mean.init(judge.tickets[best.place])
    for other in others:
        current, weights = state, shares
        for share in POOL_SHARES:
            rest = current._replace(weight=1 - share)
            tried = mean.fold(rest, judge.tickets[other.place], share)
            mixed = {i: (1 - share) * w for i, w in weights.items()} | {other.place: share}
            found = judge.judge(_name(mixed), mean.result(tried), mixed)
            if found.loss < best.loss:
                best, state, shares = found, tried, mixed
    return best


_BY_SCORE: dict[str, Callable[[_Judge, Sequence[_Scored], Superposition], _Scored]] = {
    "greedy": _greedy,
    "pools": _pools,
}


def _superposed(
    judge: _Judge,
    singles: Sequence[_Scored],
    inner: str | Superposition,
    mean: Superposition,
    options: Any,
) -> _Scored:
    """Return the superposition that `guard` watches over."""
    if isinstance(inner, str) and inner in _BY_SCORE:
        return _BY_SCORE[inner](judge, singles, mean)
    own = rule_of(inner, *options)
    state = own.init(judge.tickets[0])
    for ticket in judge.tickets[1:]:
        state = own.fold(state, ticket)
    shares = dict.fromkeys(range(len(judge.tickets)), 1 / len(judge.tickets))
    name = inner if isinstance(inner, str) else "superposition"
    return judge.judge(f"{name} of all tickets", own.result(state), shares)


def _guard(singles: Sequence[_Scored], superposed: _Scored) -> _Scored:
    """Return the simplest candidate within one paired standard error of the best."""
    ranked = [singles[-1], _by_loss(singles)[0], superposed]
    lowest = min(ranked, key=lambda scored: scored.loss)

    def is_near(scored: _Scored) -> bool:
        found = paired_difference(scored.losses, lowest.losses)
        return scored is lowest or bool(found.difference <= found.standard_error)

    return next(scored for scored in ranked if is_near(scored))


def _name(shares: dict[int, float]) -> str:
    return " + ".join(f"{share:.3g} ticket {i}" for i, share in shares.items())
