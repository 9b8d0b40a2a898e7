"""Which sample belongs to which task: by its class, by another field, or by its place in the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from trustformers_pl.continual.labels import IGNORED, LABELS, Value, column
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Scenario = Literal["class", "domain", "task"]
NO_TASK = -1


@dataclass(frozen=True)
class Division:
    """Tasks as sets of values of a field, or as blocks of the data.

    van de Ven & Tolias 2019, "Three scenarios for continual learning": in `class` and `task` each task has classes of
    its own, and in `task` the model is told which task a sample is of; in `domain` all tasks have the same classes.

    Attributes:
        scenario: One of the three.
        field: What tells the task of a sample; None for blocks.
        task_of: Value of the field -> task; empty for blocks.
        count: How many tasks.
    """

    scenario: Scenario
    field: str | None
    task_of: Mapping[Value, int]
    count: int

    @property
    def by_class(self) -> bool:
        """Whether tasks have classes of their own."""
        return self.scenario != "domain"

    def classes(self, task: int) -> list[Value]:
        """The values of a task, in their order."""
        return [value for value, of in self.task_of.items() if of == task]

    def of_samples(self, dataset: Any, *, strict: bool) -> Tensor:
        """The task of each sample: (N,) int64, -1 for a sample of none.

        Args:
            dataset: N samples.
            strict: Refuse a sample of no task, and a task without samples.

        Raises:
            DataError: There is one.
        """
        if self.field is None:
            found = blocks(dataset, self.count)
        else:
            values = column(dataset, self.field)
            found = torch.tensor([self.task_of.get(value, NO_TASK) for value in values], dtype=torch.int64)
            if strict and bool((found == NO_TASK).any()):
                raise DataError(self._homeless(values, found))
        if strict:
            _refuse_empty(torch.bincount(found, minlength=self.count), self)
        return found

    def _homeless(self, values: Sequence[Value], found: Tensor) -> str:
        index = int((found == NO_TASK).nonzero()[0])
        name = "class" if self.by_class else self.field
        mend = f"{LABELS} of {IGNORED} cannot be learned" if values[index] == IGNORED else "add it to one of the tasks"
        return f"tasks: {name} {values[index]!r} (sample {index}) is in no task; {mend}"


def divided(
    dataset: Any,
    scenario: Scenario = "class",
    *,
    classes: Sequence[Sequence[Value]] | None = None,
    number: int | None = None,
    field: str | None = None,
) -> Division:
    """How the training data fall into tasks.

    Args:
        dataset: The training data.
        scenario: See `Division`.
        classes: The values of each task. Otherwise the sorted values that there are, in `number` equal parts; of
            domains, one value each.
        number: How many tasks.
        field: What tells the task: `labels` but for domains, which are blocks of the data without it.

    Raises:
        DataError: Fewer values than tasks, or a field that says nothing.
    """
    by = field if scenario == "domain" else field or LABELS
    if classes is not None:
        given = {value: task for task, values in enumerate(classes) for value in values}
        return Division(scenario, by or LABELS, given, len(classes))
    if by is None:
        parts = len(dataset.datasets) if isinstance(dataset, ConcatDataset) else None
        return Division(scenario, None, {}, number or parts or 1)
    found = sorted(set(column(dataset, by)) - {IGNORED}, key=lambda value: (isinstance(value, str), value))
    count = number if number is not None else len(found)
    if len(found) < count:
        raise DataError(f"tasks: {count} tasks need as many values of {by!r}, and there are {len(found)}: {found}")
    return Division(scenario, by, {v: place * count // len(found) for place, v in enumerate(found)}, count)


def blocks(dataset: Any, count: int) -> Tensor:
    """The task of each sample (N,), where tasks are consecutive parts of the data.

    Those of a `ConcatDataset` of as many are its parts: one source a task. Otherwise they are as equal as can be.
    """
    if isinstance(dataset, ConcatDataset) and len(dataset.datasets) == count:
        lengths = torch.tensor([len(part) for part in dataset.datasets])  # type: ignore[arg-type]
        return torch.arange(count).repeat_interleave(lengths)
    return torch.arange(len(dataset)) * count // max(1, len(dataset))


def _refuse_empty(sizes: Tensor, division: Division) -> None:
    for task in (sizes == 0).nonzero().flatten().tolist():
        of = f" ({division.field} {division.classes(task)})" if division.field else ""
        raise DataError(f"tasks: task {task}{of} has no sample; take it out, or give other data")
