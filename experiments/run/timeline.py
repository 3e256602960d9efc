"""What happens at which training step: the order of a run as pure functions of the step."""

from typing import Any, NamedTuple

from supjax import CyclePlan
from supjax.types import TopologyTransform

STEPS_A_SHARE = 300
"""Steps that a cycle needs for each unit of the share that it explores: shorter ones end with a
damaged network. Measured on digits (docs/study.md): 76 steps are too few for 0.5, enough for 0.1;
152 are enough for 0.5."""


class Timeline(NamedTuple):
    """The events of a run.

    Attributes:
      plan: the two phases.
      topology: the method on the timetable of both phases, from `supjax.with_cycles`: when its
        masks move, and how far.
      steps_per_epoch: training steps in one epoch.
      eval_every: steps between evaluations; a multiple of the epoch.
      log_every: steps between lines of metrics inside an epoch; its end always has one.

    >>> import supjax
    >>> plan = CyclePlan(normal_steps=4, cycle_steps=2, num_cycles=1)
    >>> method = supjax.make_topology("set", density=0.5, drop_fraction=0.3, update_every=2)
    >>> method = supjax.with_cycles(method, plan, exploration=0.5)
    >>> line = Timeline(plan, method, steps_per_epoch=2, eval_every=2, log_every=2)
    >>> [line.drop_fraction(step) for step in range(6)]
    [None, 0.3, None, 0.3, 0.5, None]
    >>> line.stretch_end(2, at_most=9), line.ticket_after(6), line.phase(5)
    (3, 1, 'cycle 1')
    """

    plan: CyclePlan
    topology: TopologyTransform
    steps_per_epoch: int
    eval_every: int
    log_every: int

    def drop_fraction(self, step: int) -> Any:
        """Return the share of the weights that move after training step `step`, or None.

        Periodic updates belong to the normal phase; every cycle begins with an exploration.
        """
        return self.topology.drop_fraction(step) if self.topology.due(step) else None

    def warnings(self) -> list[str]:
        """Return what to say before a run begins: cycles that cannot train what they explore.

        >>> import supjax
        >>> plan = CyclePlan(normal_steps=4, cycle_steps=76, num_cycles=1)
        >>> method = supjax.make_topology("set", density=0.5)
        >>> method = supjax.with_cycles(method, plan, exploration=0.5)
        >>> Timeline(plan, method, steps_per_epoch=2, eval_every=2, log_every=2).warnings()
        ['warning: cycles of 76 steps are short for exploration 0.5: at most 0.25, or 150 steps']
        """
        steps = self.plan.cycle_steps
        shares = [self.drop_fraction(step) for step in self.plan.exploration_steps]
        share = max((float(share) for share in shares if share is not None), default=0.0)
        if steps >= share * STEPS_A_SHARE:
            return []
        return [
            f"warning: cycles of {steps} steps are short for exploration {share:g}: at most "
            f"{steps / STEPS_A_SHARE:.2g}, or {round(share * STEPS_A_SHARE)} steps"
        ]

    def stretch_end(self, step: int, at_most: int) -> int:
        """Return the first step after `step` before which the host has something to do.

        From `step`, a plain training step, the device may run on alone up to there: to the next
        topology step or line of metrics. Epochs (a new order of the examples), phases and tickets
        end with a line of metrics.
        """
        stop = step + 1
        while stop < step + at_most and self.drop_fraction(stop) is None and not self.log_due(stop):
            stop += 1
        return stop

    def log_due(self, done: int) -> bool:
        """Say whether `done` steps call for a line of metrics.

        These moments depend on the config alone, never on the speed of the machine or on where a
        run was interrupted.
        """
        return done % self.steps_per_epoch % self.log_every == 0

    def ticket_after(self, done: int) -> int:
        """Return the number (from 1) of the ticket taken when `done` steps are done, or 0."""
        tickets = self.plan.ticket_steps
        return tickets.index(done - 1) + 1 if done - 1 in tickets else 0

    def normal_phase_ends(self, done: int) -> bool:
        """Say whether `done` steps complete the normal phase."""
        return done == self.plan.normal_steps

    def evaluation_due(self, done: int) -> bool:
        """Say whether `done` steps call for an evaluation."""
        return done % self.eval_every == 0 or done in (
            self.plan.normal_steps,
            self.plan.total_steps,
        )

    def phase(self, step: int) -> str:
        """Return the name of the phase that holds training step `step`."""
        if step < self.plan.normal_steps:
            return "normal"
        return f"cycle {(step - self.plan.normal_steps) // self.plan.cycle_steps + 1}"
