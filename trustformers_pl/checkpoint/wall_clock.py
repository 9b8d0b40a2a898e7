"""Checkpoints by time: all ranks save at the same step, though their clocks differ."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning import Trainer


class WallClock:
    """Says at step boundaries whether the time since the last checkpoint is up.

    Rank 0's clock decides. Several ranks ask it together, and not at each step: with each answer comes the step of the
    next question, half the way that is left at the pace so far.
    """

    def __init__(self, minutes: float) -> None:
        """Start counting.

        Args:
            minutes: Between checkpoints; fractions are allowed.
        """
        self._seconds = minutes * 60
        self.restart(0)

    def restart(self, step: int) -> None:
        """Count from now on: training starts, or a checkpoint was taken, at `step`."""
        self._since = time.monotonic()
        self._from, self._ask_at = step, step + 1

    def due(self, trainer: Trainer, step: int) -> bool:
        """Whether to save at this step boundary. Collective: every rank asks at every boundary."""
        if trainer.world_size == 1:
            return time.monotonic() - self._since >= self._seconds
        if step < self._ask_at:
            return False
        left, self._ask_at = trainer.strategy.broadcast((self._left(), step + self._steps_to_wait(step)))
        return bool(left <= 0)

    def _left(self) -> float:
        return self._since + self._seconds - time.monotonic()

    def _steps_to_wait(self, step: int) -> int:
        pace = max(time.monotonic() - self._since, 1e-6) / max(step - self._from, 1)
        return max(1, int(self._left() / pace / 2))
