"""How a run ends that a signal has told to end, once it is saved."""

from __future__ import annotations

import signal

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 85}
"""Of the process that saved and ended, by signal: 128 + its number as shells have it; 85 asks to be started again."""


class Stopped(SystemExit):
    """A signal asked for the end, and the run has come to it: an exit of the process, not an error.

    Args:
        number: The signal's.
        steps: Optimizer steps that were made.

    Attributes:
        code: The exit code, one of `EXIT_CODES`.
    """

    def __init__(self, number: int, steps: int) -> None:
        super().__init__(EXIT_CODES[signal.Signals(number)])
        self.number, self.steps = number, steps

    def __str__(self) -> str:
        again = "please start it again" if self.number == signal.SIGUSR1 else "the same command goes on from there"
        return f"stopped by {signal.Signals(self.number).name} after step {self.steps}: saved, {again}"
