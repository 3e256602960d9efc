"""The two phases of a run in exact integers."""

from fractions import Fraction
from typing import NamedTuple

from supjax.allocation import exact
from supjax.checks import check_count


class CyclePlan(NamedTuple):
    """How many training steps each phase takes.

    A run is `normal_steps` of ordinary sparse training, then `num_cycles` cycles of
    `cycle_steps` each; every cycle begins with an exploration and ends with a ticket.

    Source: Yin et al., *Superposing Many Tickets into One*, UAI 2022, section 3.

    >>> plan = CyclePlan.from_epochs(250, cycle_fraction=0.1, cycle_epochs=8, steps_per_epoch=1)
    >>> plan, plan.total_steps, plan.ticket_steps
    (CyclePlan(normal_steps=226, cycle_steps=8, num_cycles=3), 250, (233, 241, 249))
    """

    normal_steps: int
    cycle_steps: int
    num_cycles: int

    @property
    def cyclic_steps(self) -> int:
        """Length of the cyclic phase."""
        return self.cycle_steps * self.num_cycles

    @property
    def total_steps(self) -> int:
        """Length of the run."""
        return self.normal_steps + self.cyclic_steps

    @property
    def exploration_steps(self) -> tuple[int, ...]:
        """The first training step (from 0) of every cycle."""
        return tuple(self.normal_steps + i * self.cycle_steps for i in range(self.num_cycles))

    @property
    def ticket_steps(self) -> tuple[int, ...]:
        """The last training step (from 0) of every cycle: its ticket is taken right after."""
        return tuple(step + self.cycle_steps - 1 for step in self.exploration_steps)

    @classmethod
    def from_epochs(
        cls,
        epochs: int,
        *,
        cycle_fraction: float | str | Fraction = 0.1,
        cycle_epochs: int,
        steps_per_epoch: int,
    ) -> "CyclePlan":
        """Split a budget of epochs: `cyclic = epochs * cycle_fraction`, cut to whole cycles.

        The fraction is taken as the decimal that was written, so 100 epochs * 0.29 gives 29. If
        not even one cycle fits, there are no cycles and the whole budget is the normal phase.

        Args:
          epochs: length of the whole run.
          cycle_fraction: share of the run for the cyclic phase, in [0, 1].
          cycle_epochs: epochs C in one cycle.
          steps_per_epoch: training steps in one epoch.

        Raises:
          ValueError: if a number is out of range or one cycle is longer than the run.

        >>> CyclePlan.from_epochs(100, cycle_fraction=0.29, cycle_epochs=29, steps_per_epoch=2)
        CyclePlan(normal_steps=142, cycle_steps=58, num_cycles=1)
        """
        check_count(epochs, "epochs")
        check_count(cycle_epochs, "cycle_epochs")
        check_count(steps_per_epoch, "steps_per_epoch")
        fraction = exact(cycle_fraction)
        if not 0 <= fraction <= 1:
            raise ValueError(f"cycle_fraction must be in [0, 1], got {cycle_fraction}")
        if cycle_epochs > epochs:
            raise ValueError(f"a cycle of {cycle_epochs} epochs is longer than the run of {epochs}")
        num_cycles = int(epochs * fraction) // cycle_epochs
        normal = epochs - num_cycles * cycle_epochs
        return cls(normal * steps_per_epoch, cycle_epochs * steps_per_epoch, num_cycles)

    @classmethod
    def from_steps(cls, total_steps: int, *, cyclic_steps: int, cycle_steps: int) -> "CyclePlan":
        """Split a budget of steps; the cyclic phase is cut down to whole cycles.

        Args:
          total_steps: length of the whole run.
          cyclic_steps: length of the cyclic phase before the cut; 0 means no cycles.
          cycle_steps: steps C in one cycle.

        Raises:
          ValueError: if a number is out of range, the cyclic phase is longer than the run, or a
            cycle is longer than the cyclic phase.

        >>> CyclePlan.from_steps(100, cyclic_steps=25, cycle_steps=8)
        CyclePlan(normal_steps=76, cycle_steps=8, num_cycles=3)
        """
        check_count(total_steps, "total_steps")
        check_count(cyclic_steps, "cyclic_steps", least=0)
        check_count(cycle_steps, "cycle_steps")
        if cyclic_steps > total_steps:
            raise ValueError(
                f"cyclic phase of {cyclic_steps} steps is longer than the run of {total_steps}"
            )
        if 0 < cyclic_steps < cycle_steps:
            raise ValueError(
                f"cycle of {cycle_steps} steps is longer than the cyclic phase of {cyclic_steps}"
            )
        num_cycles = cyclic_steps // cycle_steps
        return cls(total_steps - num_cycles * cycle_steps, cycle_steps, num_cycles)

    @classmethod
    def from_percent(
        cls, total_steps: int, *, cyclic_percent: float, num_cycles: int
    ) -> "CyclePlan":
        """Split a budget of steps by percentage: `num_cycles` equal cycles in the last percent.

        Args:
          total_steps: length of the whole run.
          cyclic_percent: share of the run for the cyclic phase, in [0, 100].
          num_cycles: cycles M in it; each gets `floor(cyclic / M)` steps.

        Raises:
          ValueError: if a number is out of range or a cycle would have no step.

        >>> CyclePlan.from_percent(1000, cyclic_percent=10, num_cycles=3)
        CyclePlan(normal_steps=901, cycle_steps=33, num_cycles=3)
        """
        check_count(total_steps, "total_steps")
        check_count(num_cycles, "num_cycles")
        percent = exact(cyclic_percent)
        if not 0 <= percent <= 100:
            raise ValueError(f"cyclic_percent must be in [0, 100], got {cyclic_percent}")
        cyclic_steps = int(total_steps * percent / 100)
        if cyclic_steps < num_cycles:
            raise ValueError(
                f"{num_cycles} cycles do not fit into a cyclic phase of {cyclic_steps} steps"
            )
        return cls.from_steps(
            total_steps,
            cyclic_steps=cyclic_steps // num_cycles * num_cycles,
            cycle_steps=cyclic_steps // num_cycles,
        )
