"""The callback that knows which task is trained, and tells others where one begins and ends."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.continual.detection import Detection
from trustformers_pl.continual.division import NO_TASK
from trustformers_pl.continual.labels import LABELS, column
from trustformers_pl.continual.order import TaskOrder
from trustformers_pl.data.order import epoch_order
from trustformers_pl.data.ranks import data_ranks
from trustformers_pl.errors import DataError, RefusedError
from trustformers_pl.loop import EpochLoop, exact_loop
from trustformers_pl.stateful import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor
    from torch.optim import Optimizer

    from trustformers_pl.continual.labels import Value
    from trustformers_pl.data.loader import ResumableLoader

logger = logging.getLogger(__name__)


class Tasks(Callback):
    """Follows the tasks of a `TaskOrder` in the data, and calls `on_task_start` and `on_task_end` of other callbacks.

    Both get `(trainer, module, task)`. They are called at step boundaries, before a checkpoint of that boundary is
    saved, in the order of the callbacks, on all ranks: `on_task_end` after the last step of a task, `on_task_start` of
    the next one right after it, and that of the first task before the first step. A run that goes on from a checkpoint
    of a boundary does not call them again: what they have done is state.

    With `detect` the boundaries are not those of the data but those where the loss rises (see `boundaries.observed`):
    some steps late, and as many as are found. A task is then what was trained on between two of them.

    In a stock Trainer: `Trainer(callbacks=[Tasks()], plugins=[OrderedPrecision()])`, and a data module
    `resumable_datamodule(..., seed=0, phases={"order": [TaskOrder(...)]})`.

    Args:
        detect: Options of `boundaries.observed`; None takes the boundaries of the data.
        stop: End the training with the last task.

    Attributes:
        current: The task that is trained.
        ended: How many tasks have ended.
    """

    def __init__(self, *, detect: dict[str, Any] | None = None, stop: bool = True) -> None:
        self.current = self.ended = 0
        self.stop = stop
        self._started = False
        self._detection = None if detect is None else Detection(**detect)
        self._trainer: Trainer | None = None
        self._loader: ResumableLoader | None = None
        self._order = TaskOrder()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the order in the data, and see what is in which task.

        Raises:
            RefusedError: There is none.
            DataError: A class in no task, or a task without samples, or with fewer than a batch or than ranks.
        """
        self._trainer, self._order = trainer, _order_of(trainer)
        self._order.accumulated = trainer.accumulate_grad_batches
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._loader = datamodule.train_dataloader()
        sizes, ranks = torch.bincount(self._order.of_sample, minlength=self._order.count), data_ranks(trainer)[1]
        for task, size in enumerate(sizes.tolist()):
            if size < ranks:
                raise DataError(
                    f"tasks: task {task} has {size} samples for {ranks} ranks; give more, or use fewer ranks"
                )
            if not len(self.loader.batches_in(task * self._order.epochs)):
                raise DataError(f"tasks: task {task} has fewer samples than a batch, which drop_last leaves out")
        self._warn_of_an_early_end(trainer)
        self._tell_heads(pl_module)
        if stage == "fit":
            exact_loop(trainer)
            if self._detection is not None:
                self._detection.join(trainer)
            elif self.stop:
                self._set_end(trainer)

    def _set_end(self, trainer: Trainer) -> None:
        """Let schedules and progress know how long the tasks take."""
        batches = [len(self.loader.batches_in(task * self._order.epochs)) for task in range(self._order.count)]
        limit = trainer.limit_train_batches
        kept = [min(limit, one) if isinstance(limit, int) else int(one * (limit or 1.0)) for one in batches]
        steps = sum(self._order.epochs * math.ceil(one / trainer.accumulate_grad_batches) for one in kept)
        loop = trainer.fit_loop.epoch_loop
        loop.max_steps = steps if loop.max_steps == -1 else min(loop.max_steps, steps)

    def _warn_of_an_early_end(self, trainer: Trainer) -> None:
        limit, wanted = trainer.max_epochs, self._order.count * self._order.epochs
        if limit is not None and -1 < limit < wanted and self.stop and trainer.is_global_zero:
            what = f"{self._order.count} tasks of {self._order.epochs} epochs take {wanted}"
            logger.warning("tasks: %s, and trainer.max_epochs=%d ends the training before; raise it", what, limit)

    def _tell_heads(self, module: Any) -> None:
        if self._order.scenario != "task" or not hasattr(module, "of_own_task"):
            return
        masks = torch.stack([self.mask(task) for task in range(self._order.count)])
        module.class_tasks = torch.where(masks.any(0), masks.int().argmax(0), NO_TASK)
        module.label_field = labels_field(self)

    @property
    def loader(self) -> ResumableLoader:
        """The training loader, for passes over its samples: that of the training once there is one."""
        assert self._loader is not None, "not before `setup`"
        own: Any = None if self._trainer is None else self._trainer.train_dataloader
        return own if hasattr(own, "of_samples") else self._loader

    @property
    def order(self) -> TaskOrder:
        """What is in which task."""
        return self._order

    @property
    def seen(self) -> list[Value]:
        """The classes of the tasks so far, with the current one, in the order of the tasks."""
        return [value for task in range(self.current + 1) for value in self.classes(task)]

    def classes(self, task: int) -> list[Value]:
        """The classes of a task: all that there are, where tasks are no sets of classes or boundaries are detected."""
        if self.order.known.by_class and self._detection is None:
            return self.order.known.classes(task)
        return sorted(set(column(self.loader.dataset)))

    def mask(self, task: int, width: int | None = None) -> Tensor:
        """Which outputs are of a task.

        Args:
            task: Its number.
            width: C, the number of outputs; by default just enough for the largest class.

        Returns:
            (C,) bool.

        Raises:
            DataError: Classes are no numbers.
        """
        classes = self.classes(task)
        known = self.order.known.task_of if self.order.known.by_class else classes
        if not all(isinstance(value, int) for value in known):
            raise DataError("tasks: classes are texts, and outputs have numbers; give numbers as labels")
        mask = torch.zeros(width or 1 + max(map(int, known)), dtype=torch.bool)
        mask[torch.tensor([int(value) for value in classes])] = True
        return mask

    def indices(self, task: int, limit: int | None = None) -> Tensor:
        """The training samples of a task, ascending: (N,) int64.

        Args:
            task: One that has begun, where boundaries are detected.
            limit: Take so many at most, drawn by the number of the task.
        """
        if self._detection is None:
            found = (self.order.of_sample == task).nonzero().flatten()
        else:
            found = self._detection.indices(task, self.loader, self._place())
        if limit is not None and limit < len(found):
            found = found[epoch_order(len(found), seed=0, epoch=task, shuffle=True)[:limit]].sort().values
        return found

    def batches(self, task: int, batch_size: int | None = None, limit: int | None = None) -> Iterator[Any]:
        """This rank's share of a task's training data, as collated batches on the CPU, in order.

        Args:
            task: As for `indices`.
            batch_size: Samples in a batch; that of the training if not given.
            limit: As for `indices`.
        """
        indices = self.indices(task, limit)
        rank, ranks = data_ranks(self._trainer)
        return self.loader.of_samples(indices[rank::ranks], batch_size or self.loader.batch_size or 1)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run whose tasks are done has nothing left to do."""
        if self.stop and self._detection is None and self.ended >= self.order.count:
            trainer.should_stop = True

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first task begins, when every callback is ready for it."""
        if not self._started:
            self._start(trainer, pl_module, 0)

    @override
    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """A window of the loss begins."""
        if self._detection is not None:
            self._detection.window.begin()

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Take up a micro-batch's loss."""
        if self._detection is not None:
            self._detection.window.add(loss)

    def on_step_boundary(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a task and begin the next one, where there is a boundary."""
        epoch, _, is_last = self._place()
        if self._detection is None:
            if is_last and self.order.ends_after(epoch):
                self._end(trainer, pl_module, last=self.order.task_of(epoch) == self.order.count - 1)
        elif self._detection.take_found():
            self._end(trainer, pl_module, last=False)

    def _end(self, trainer: Trainer, module: LightningModule, *, last: bool) -> None:
        _tell(trainer, "on_task_end", module, self.current)
        self.ended += 1
        if not last:
            if self._detection is not None:
                self._detection.begins.append(self._place()[:2])
            self._start(trainer, module, self.current + 1)
        elif self.stop:
            trainer.should_stop = True

    def _start(self, trainer: Trainer, module: LightningModule, task: int) -> None:
        self._started, self.current = True, task
        _tell(trainer, "on_task_start", module, task)

    def _place(self) -> tuple[int, int, bool]:
        """Epoch, batches of it that are done, and whether these are all; at a step boundary."""
        assert self._trainer is not None
        fit_loop: Any = self._trainer.fit_loop
        loop: EpochLoop = fit_loop.epoch_loop
        done = loop.batch_progress.current.ready
        return fit_loop.epoch_progress.current.processed, done, loop._num_ready_batches_reached()

    def state(self) -> State:
        """Where in the sequence of tasks the run is."""
        found = {} if self._detection is None else self._detection.state()
        return State({"current": self.current, "ended": self.ended, "started": self._started, "detection": found})

    def load_state(self, state: State) -> None:
        """Go on from there."""
        self.current, self.ended = state.value["current"], state.value["ended"]
        self._started = state.value["started"]
        if self._detection is not None and state.value["detection"]:
            self._detection.load_state(state.value["detection"])


def tasks_of(trainer: Trainer, who: str) -> Tasks:
    """The Trainer's `Tasks`.

    Args:
        trainer: Whose callbacks are looked through.
        who: The callback's class, for the message.

    Raises:
        RefusedError: It has none.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Tasks):
            return callback
    raise RefusedError(f"{who} acts where tasks begin and end, and nothing says where; add the callback Tasks()")


def labels_field(tasks: Tasks) -> str:
    """The field that has the classes."""
    division = tasks.order.known
    return division.field or LABELS if division.by_class else LABELS


def _order_of(trainer: Trainer) -> TaskOrder:
    phases = getattr(trainer.datamodule, "data_phases", None)  # type: ignore[attr-defined]
    for function in getattr(phases, "order", ()):
        if isinstance(function, TaskOrder):
            return function
    raise RefusedError(
        "Tasks follows a TaskOrder, and the data have none; give the Trainer a data module "
        "resumable_datamodule(..., phases={'order': [TaskOrder(...)]}) from trustformers_pl.data"
    )


def _tell(trainer: Trainer, name: str, module: LightningModule, task: int) -> None:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        function = getattr(callback, name, None)
        if callable(function):
            function(trainer, module, task)
