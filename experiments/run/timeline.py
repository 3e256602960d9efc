"""What happens at which training step: the order of a run as pure functions of the step."""

from collections.abc import Callable
from typing import Any, NamedTuple

from supjax import CyclePlan


class Timeline(NamedTuple):
    """The events of a run.

    Attributes:
      plan: the two phases.
      due: `step -> bool`, periodic topology updates of the host method.
      steps_per_epoch: training steps in one epoch.
      eval_every: steps between evaluations; a multiple of the epoch.
      log_every: steps between lines of metrics inside an epoch; its end always has one.

    >>> plan = CyclePlan(normal_steps=4, cycle_steps=2, num_cycles=1)
    >>> line = Timeline(plan, lambda step: step == 1, steps_per_epoch=2, eval_every=2, log_every=2)
    >>> [line.action(step) for step in range(6)]
    ['train', 'topology', 'train', 'train', 'explore', 'train']
    >>> line.stretch_end(2, at_most=9), line.ticket_after(6), line.phase(5)
    (4, 1, 'cycle 1')
    """

    plan: CyclePlan
    due: Callable[[int], Any]
    steps_per_epoch: int
    eval_every: int
    log_every: int

    def action(self, step: int) -> str:
        """Return what training step `step` is: "train", "topology" or "explore".

        Periodic updates belong to the normal phase; every cycle begins with an exploration.
        """
        if step in self.plan.exploration_steps:
            return "explore"
        if step < self.plan.normal_steps and self.due(step):
            return "topology"
        return "train"

    def stretch_end(self, step: int, at_most: int) -> int:
        """Return the first step after `step` before which the host has something to do.

        From `step`, a plain training step, the device may run on alone up to there: to the next
        topology step or line of metrics. Epochs (a new order of the examples), phases and tickets
        end with a line of metrics.
        """
        stop = step + 1
        while stop < step + at_most and self.action(stop) == "train" and not self.log_due(stop):
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
