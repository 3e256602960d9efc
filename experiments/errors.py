"""Ends of a run that a user can act on: one line, and an exit status for scripts."""


class RunError(Exception):
    """A run that cannot go on. `exit_code` becomes the exit status of the command."""

    exit_code = 1


class ConfigError(RunError):
    """A config that cannot be run; found before any data is loaded or compiled."""

    exit_code = 2


class DivergedError(RunError):
    """The loss is no longer finite."""

    exit_code = 3


class InterruptedRunError(RunError):
    """A signal stopped the run after its state was saved; the same command continues it."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(
            f"stopped by signal {signal_number}; state saved at step {step}, run again"
        )
        self.exit_code = 128 + signal_number
