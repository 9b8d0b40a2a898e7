"""One task after another: the order of the training data as a pure function of the epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.continual.division import Division, Scenario, divided
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from trustformers_pl.continual.labels import Value


class TaskOrder:
    """For the data phase ORDER: epoch 0 to `epochs` - 1 are those of task 0, the next as many those of task 1, ...

    With `steps`, a task is one epoch of that many optimizer steps: the task's data over and over, in another order
    each time if they are shuffled. After the last task its own epochs go on.

    Args:
        scenario: `class`, `domain` or `task`: see `Division`.
        classes: The values of each task.
        number: How many tasks.
        field: Of a sample, which tells its task.
        epochs: Passes over a task's data.
        steps: Optimizer steps of a task, instead of passes.

    Attributes:
        division: What is in which task; from `prepare` on.
        of_sample: (N,) int64, the task of each training sample; likewise.
        accumulated: Batches of an optimizer step.
    """

    def __init__(
        self,
        scenario: Scenario = "class",
        *,
        classes: Sequence[Sequence[Value]] | None = None,
        number: int | None = None,
        field: str | None = None,
        epochs: int = 1,
        steps: int | None = None,
    ) -> None:
        self.scenario, self.classes, self.number, self.field = scenario, classes, number, field
        self.epochs, self.steps = epochs if steps is None else 1, steps
        self.division: Division | None = None
        self.of_sample: Tensor = torch.zeros(0, dtype=torch.int64)
        self.accumulated = 1
        self._batch: Callable[[], int] = lambda: 1

    def prepare(self, dataset: Any, batch: Callable[[], int]) -> None:
        """See which sample is of which task.

        Args:
            dataset: That has the indices.
            batch: Gives the samples in a global batch.

        Raises:
            DataError: A class in no task, or a task without samples.
        """
        self.division = divided(dataset, self.scenario, classes=self.classes, number=self.number, field=self.field)
        self.of_sample = self.division.of_samples(dataset, strict=True)
        self._batch = batch

    @property
    def count(self) -> int:
        """How many tasks."""
        return self.known.count

    @property
    def known(self) -> Division:
        """The division.

        Raises:
            DataError: The training data were not made yet.
        """
        if self.division is None:
            raise DataError("tasks: the training loader is not one whose order features can change")
        return self.division

    def task_of(self, epoch: int) -> int:
        """The task that an epoch trains: the last one once all had theirs."""
        return min(epoch // self.epochs, self.count - 1)

    def ends_after(self, epoch: int) -> bool:
        """Whether an epoch is a task's last one."""
        return (epoch + 1) % self.epochs == 0 and epoch < self.epochs * self.count

    def __call__(self, indices: Tensor, epoch: int, seed: int) -> Tensor:
        """The epoch's indices of the epoch's task, in the order given: (N,) int64 to (M,) int64."""
        del seed
        own = indices[self.of_sample[indices] == self.task_of(epoch)]
        if self.steps is None:
            return own
        wanted = self.steps * self.accumulated * self._batch()
        shuffled = bool((own.diff() < 0).any())
        passes = [own]
        while sum(map(len, passes)) < wanted:  # global generators are seeded by (seed, epoch) here
            passes.append(own[torch.randperm(len(own))] if shuffled else own)
        return torch.cat(passes)[:wanted]
