"""How many elements a second a training goes through, without asking the device on every step."""

from __future__ import annotations

import time
from typing import Any

import torch

FOLD = 1024


class Throughput:
    """Counts elements against the wall clock, which can be stopped."""

    def __init__(self) -> None:
        self._counts: list[Any] = []
        self._since = self._paused_at = 0.0

    def start(self) -> None:
        """Forget everything and start the clock."""
        self._counts, self._since = [], time.perf_counter()

    def add(self, count: Any) -> None:
        """Count elements; nothing is read from the device.

        Args:
            count: A number, or a tensor of one element.
        """
        self._counts.append(count)
        if len(self._counts) == FOLD:
            self._counts = [self._sum()]

    def pause(self) -> None:
        """Stop the clock."""
        self._paused_at = time.perf_counter()

    def go_on(self) -> None:
        """Let the clock go on as if no time had passed since `pause`."""
        self._since += time.perf_counter() - self._paused_at

    def read(self) -> float | None:
        """Elements per second since `start` or the last `read`, which starts anew; None when nothing was counted."""
        if not self._counts:
            return None
        elements = float(self._sum())
        seconds = time.perf_counter() - self._since
        self.start()
        return elements / seconds

    def _sum(self) -> torch.Tensor:
        """All counts summed on the device, in one kernel."""
        return torch.stack([torch.as_tensor(count) for count in self._counts]).sum()
