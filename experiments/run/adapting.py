"""After every cycle of an adaptive run: look at its ticket, and decide the next one."""

from typing import Any

import jax

from experiments.records.folder import PRETRAINED, ticket_name
from experiments.records.recorder import Recorder
from experiments.run.cycles import (
    Adaptation,
    CycleValues,
    Neighbours,
    cycle_values,
    with_cycle_values,
)
from experiments.run.judging import Judge
from experiments.run.seed_axis import SeedAxis
from supjax.adaptive import NextCycle, next_cycle
from supjax.training import TrainState
from supjax.types import Ticket

CYCLE = "cycle"
"""Kind of the line of metrics about a cycle that is over."""


class Adapter:
    """Compares a ticket with the network before it, and sets what the next cycle runs with."""

    def __init__(
        self, adaptation: Adaptation, judge: Judge, recorder: Recorder, seeds: SeedAxis
    ) -> None:
        self._adaptation, self._judge = adaptation, judge
        self._recorder, self._seeds = recorder, seeds

    def adapt(
        self, train: TrainState, ticket: Ticket, number: int, done: int, *, first: bool
    ) -> tuple[TrainState, jax.Array]:
        """Return the state of the next cycle, and whether each seed's ticket stays in the mean.

        Args:
          train: the state of all seeds after the cycle.
          ticket: its network, on the host.
          number: of the ticket, from 1.
          done: training steps done.
          first: whether the ticket is the first member, which always stays.
        """
        before = ticket_name(number - 1) if number > 1 else PRETRAINED
        ran = self._seeds.split(jax.device_get(cycle_values(train)))
        following, keep, rows = [], [], []
        for index, (own, values) in enumerate(zip(self._seeds.split(ticket), ran, strict=True)):
            previous = self._recorder.folders[index].load_ticket(before)
            found = self._judge.neighbours(previous, own, index)
            numbers = values._asdict() | found._asdict() | self._adaptation._asdict()
            cycle = next_cycle(**numbers)
            stays = cycle.keep | first
            following.append(CycleValues(cycle.high, cycle.exploration))
            keep.append(stays)
            rows.append({"number": number, **cycle_row(values, found, cycle, stays)})
            self._recorder.progress.log(f"{self._recorder.label(index)}{cycle_line(rows[-1])}")
        self._recorder.write(done, CYCLE, rows)
        return with_cycle_values(train, self._seeds.stack(following)), self._seeds.stack(keep)


def cycle_row(
    values: CycleValues, found: Neighbours, cycle: NextCycle, stays: jax.Array
) -> dict[str, Any]:
    """Return a cycle as a line of metrics: what it ran with, what was seen, what follows."""
    return {
        "high": float(values.high),
        "exploration": float(values.exploration),
        "disagreement": found.disagreement,
        "barrier": found.barrier,
        "change": found.loss - found.previous_loss,
        "standard_error": found.standard_error,
        "kept": int(stays),
        "next_high": float(cycle.high),
        "next_exploration": float(cycle.exploration),
    }


def cycle_line(row: dict[str, Any]) -> str:
    """Return a cycle as a line for the console.

    >>> row = {"number": 2, "high": 0.1, "next_high": 0.05, "exploration": 0.1, "kept": 0}
    >>> cycle_line({**row, "next_exploration": 0.2, "disagreement": 0.031, "barrier": 0.2})
    'cycle 2: disagreement 3.10 %, barrier +0.2000, left out; next high 0.05, exploration 0.2'
    """
    return (
        f"cycle {row['number']}: disagreement {100 * row['disagreement']:.2f} %, "
        f"barrier {row['barrier']:+.4f}{'' if row['kept'] else ', left out'}; "
        f"next high {row['next_high']:.3g}, exploration {row['next_exploration']:.3g}"
    )
