"""Passes over a task's data with the model as it is, which leave no trace in the training."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.data.seeded import preserved_generators
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lightning.pytorch import LightningModule, Trainer

    ToDevice = Callable[[Any], Any]


def tasks_of(trainer: Trainer) -> Any | None:
    """The callback that knows the run's tasks, or None: it has `mask(task)` and `batches(task)`."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((one for one in callbacks if hasattr(one, "mask") and hasattr(one, "batches")), None)


def task_batches(trainer: Trainer, task: int, who: str) -> Iterable[Any]:
    """The training data of a task, on this rank's share, in order.

    Args:
        trainer: With a callback that knows the tasks.
        task: From 0.
        who: Needs them.

    Raises:
        RefusedError: There is no such callback.
    """
    tasks = tasks_of(trainer)
    if tasks is None:
        raise RefusedError(f"{who} needs the training data of a task; add the section `tasks`")
    batches: Iterable[Any] = tasks.batches(task)
    return batches


@contextmanager
def evaluating(trainer: Trainer, module: LightningModule) -> Iterator[ToDevice]:
    """Inside, the module is in evaluation mode, without gradients, in the run's precision.

    Afterwards every submodule is in the mode that it had, and the global generators are where they were.

    Yields:
        What brings a batch to the module's device.
    """
    modes = {one: one.training for one in module.modules()}
    module.eval()
    try:
        with preserved_generators(), torch.no_grad(), trainer.precision_plugin.forward_context():
            yield lambda batch: trainer.strategy.batch_to_device(batch)
    finally:
        for one, mode in modes.items():
            one.training = mode
