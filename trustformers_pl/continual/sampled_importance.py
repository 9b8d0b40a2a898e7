"""Importances from one pass over a task's training data: of EWC and of MAS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.continual.passes import Part, forward, parts
from trustformers_pl.continual.per_sample import PerSample
from trustformers_pl.continual.tasks import tasks_of
from trustformers_pl.loss_window import sum_over_data_ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from trustformers_pl.continual.contributions import Measure


def mean_over_task(
    trainer: Trainer,
    module: LightningModule,
    task: int,
    losses: Callable[[Tensor, Part], Tensor],
    measure: Measure,
    *,
    batch_size: int,
    limit: int | None,
    rehearsal: bool = False,
) -> dict[str, Tensor]:
    """The mean over a task's samples of the measured gradient of each sample's loss, over all ranks. Collective.

    Each rank takes its share of the samples; where shares are not equal, one that only fills up counts nothing.

    Args:
        trainer: Of the run.
        module: Its module; in evaluation mode meanwhile.
        task: Whose samples.
        losses: Of logits and the part of the data that they are of: (B,) or (K, B).
        measure: `torch.square` or `torch.abs`.
        batch_size: Samples of a rank's batch.
        limit: Most samples of the task that are taken.
        rehearsal: Take the first sample of the data alone, of whichever task, and show no progress.

    Returns:
        Name of a parameter -> mean, whole and equal on all ranks, at least in float32.
    """
    tasks = tasks_of(trainer, "an importance")
    indices = torch.zeros(1, dtype=torch.int64) if rehearsal else tasks.indices(task, limit)
    now: list[Part] = []

    def of_real_ones(outputs: Tensor, batch: Any) -> Tensor:
        del batch
        found = losses(outputs, now[0])
        return found * now[0].real.to(found.dtype)

    pass_ = PerSample(module, of_real_ones, measure, forward=lambda batch: forward(trainer, module, batch))
    for one in parts(trainer, tasks.loader, indices, batch_size, None if rehearsal else "weigh"):
        now[:] = [one]
        pass_.add(one.batch)
    with torch.no_grad():
        return {
            name: sum_over_data_ranks(total, module).to(total.device) / len(indices)
            for name, total in pass_.totals.items()
        }
