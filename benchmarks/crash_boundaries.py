"""Places at the boundaries of tasks where a job of `crash_trials.py` can be killed.

task_end    before and after all that is done when a task ends, and when the next one has begun
task_pass   a forward pass of what is done when a task ends or begins: importances, old answers, accuracies
task_saved  a checkpoint of a boundary, all of it written, but without its name
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning import Callback

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning import Trainer


class Boundaries:
    """Two callbacks around those that are told of tasks.

    Args:
        trainer: Whose callbacks they join.
        visit: Called with the name of each place.

    Attributes:
        steps: Optimizer steps after which a task ended, in this process.
    """

    def __init__(self, trainer: Trainer, visit: Callable[[str], None]) -> None:
        self.visit, self.steps, self._inside = visit, set[int](), False
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(hasattr(one, "on_task_end") for one in callbacks):
            callbacks.insert(0, Told(self, first=True))
            callbacks.append(Told(self, first=False))

    def told(self, step: int, *, ended: bool, first: bool) -> None:
        """One of the two callbacks was."""
        self._inside = first
        if ended:
            self.steps.add(step)
        if ended or not first:
            self.visit("task_end")

    def passed(self) -> None:
        """The model ran."""
        if self._inside:
            self.visit("task_pass")

    def renamed(self, step: int) -> None:
        """A checkpoint gets its name."""
        if step in self.steps:
            self.visit("task_saved")


class Told(Callback):
    """The first or the last callback that is told of tasks."""

    def __init__(self, boundaries: Boundaries, *, first: bool) -> None:
        self.boundaries, self.first = boundaries, first

    def on_task_end(self, trainer: Trainer, pl_module: Any, task: int) -> None:
        """Tell."""
        del pl_module, task
        self.boundaries.told(trainer.global_step, ended=True, first=self.first)

    def on_task_start(self, trainer: Trainer, pl_module: Any, task: int) -> None:
        """Tell."""
        del pl_module, task
        self.boundaries.told(trainer.global_step, ended=False, first=self.first)
