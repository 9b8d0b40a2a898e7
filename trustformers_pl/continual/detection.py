"""Boundaries that nobody gives: where the loss of a run rises, and what was trained on between two of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.continual.boundaries import Level, observed
from trustformers_pl.faults.window_loss import WindowLoss
from trustformers_pl.gradients import GradientPhase
from trustformers_pl.precision_order import gradient_order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer
    from torch import Tensor

    from trustformers_pl.data.loader import ResumableLoader
    from trustformers_pl.gradients import GradientStep


class Detection:
    """Looks at the loss of every optimizer step: the mean over its micro-batches and ranks, so that all decide alike.

    Args:
        **options: Of `observed`.

    Attributes:
        window: The loss of the step that runs.
        begins: (epoch, batches of it that were done) where each task began.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.window = WindowLoss()
        self.begins: list[tuple[int, int]] = [(0, 0)]
        self._level = Level()
        self._found = False

    def join(self, trainer: Trainer) -> None:
        """Join the gradient order."""
        gradient_order(trainer, "Tasks").add(GradientPhase.FINITE, self.look)

    def look(self, step: GradientStep) -> None:
        """Take one step's loss."""
        loss = self.window.mean(step)
        if loss is not None:
            self._level, found = observed(self._level, loss, **self.options)
            self._found |= found

    def take_found(self) -> bool:
        """Whether a boundary was found since this was asked last."""
        found, self._found = self._found, False
        return found

    def indices(self, task: int, loader: ResumableLoader, now: tuple[int, int, bool]) -> Tensor:
        """The samples trained on in a task that has begun, ascending, each once: (N,) int64.

        Args:
            task: Its number.
            loader: That gave them.
            now: Where the current task has come to.
        """
        begin = self.begins[task]
        end = self.begins[task + 1] if task + 1 < len(self.begins) else now[:2]
        parts = [torch.zeros(0, dtype=torch.int64)]
        for epoch in range(begin[0], end[0] + 1):
            batches = loader.batches_in(epoch)
            first = begin[1] if epoch == begin[0] else 0
            last = end[1] if epoch == end[0] else len(batches)
            parts += [batches[number] for number in range(first, last)]
        return torch.unique(torch.cat(parts))  # type: ignore[no-any-return]

    def state(self) -> dict[str, Any]:
        """The level, and where tasks began."""
        return {"level": asdict(self._level), "begins": [list(one) for one in self.begins], "loss": self.window.sum}

    def load_state(self, value: Mapping[str, Any]) -> None:
        """Go on from them."""
        level = dict(value["level"])
        self._level = Level(**{**level, "first": tuple(level["first"])})
        self.begins = [(one[0], one[1]) for one in value["begins"]]
        self.window.sum = value["loss"]
