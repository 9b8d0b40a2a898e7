"""Passes over a task's data with the model as it is, on all ranks in step, which leave no trace in the training."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from trustformers_pl.continual.passes import shown
from trustformers_pl.data.seeded import preserved_generators
from trustformers_pl.errors import RefusedError
from trustformers_pl.modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lightning.pytorch import LightningModule, Trainer

    ToDevice = Callable[[Any], Any]


def known_tasks(trainer: Trainer) -> Any | None:
    """The callback that knows the run's tasks, or None: it has `mask(task)` and `batches(task)`, as `Tasks` has."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((one for one in callbacks if hasattr(one, "mask") and hasattr(one, "batches")), None)


def task_batches(trainer: Trainer, task: int, who: str) -> Iterator[tuple[Any, bool]]:
    """The training data of a task, on this rank's share, in order; as many batches on every rank. Collective.

    Args:
        trainer: With a callback that knows the tasks.
        task: From 0.
        who: Needs them.

    Yields:
        A batch on the CPU, and whether it is this rank's own, or its last one once more: sharded weights are gathered
        by all ranks together.

    Raises:
        RefusedError: There is no such callback.
    """
    tasks = known_tasks(trainer)
    if tasks is None:
        raise RefusedError(f"{who} needs the training data of a task; add the section `tasks`")
    yield from shown(trainer, "ask", _in_step(tasks.batches(task), trainer))


def _in_step(batches: Iterable[Any], trainer: Trainer) -> Iterator[tuple[Any, bool]]:
    iterator, last, has_more = iter(batches), None, True
    while True:
        try:
            last = next(iterator) if has_more else last
        except StopIteration:
            has_more = False
        if not _any_rank(has_more, trainer):
            return
        yield last, has_more


def _any_rank(flag: bool, trainer: Trainer) -> bool:
    if trainer.world_size == 1:
        return flag
    told = torch.tensor(int(flag), device=trainer.strategy.root_device)
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return bool(told)


@contextmanager
def undisturbed(trainer: Trainer, module: LightningModule) -> Iterator[ToDevice]:
    """Inside, the module is in evaluation mode, without gradients, in the run's precision.

    Afterwards every submodule is in the mode that it had, and the global generators are where they were.

    Yields:
        What brings a batch to the module's device.
    """
    with evaluating(module), preserved_generators(), torch.no_grad(), trainer.precision_plugin.forward_context():
        yield lambda batch: trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
