"""Elastic weight consolidation: weights that mattered to earlier tasks are held by their Fisher information."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from trustformers_pl.continual.importance import ImportancePenalty
from trustformers_pl.continual.labels import LABELS, of_batch
from trustformers_pl.continual.likelihood import empirical, expected, sampled
from trustformers_pl.continual.sampled_importance import mean_over_task
from trustformers_pl.data.order import counter_seed
from trustformers_pl.data.ranks import data_ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

Fisher = Literal["empirical", "true", "expected"]


class EWC(ImportancePenalty):
    """Adds strength / 2 sum_t sum_i F_ti (w_i - a_ti)^2 over earlier tasks t to what is minimised.

    Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", equation 3, with the exact
    diagonal of the Fisher information from per-sample gradients, taken when a task ends. Online EWC (Schwarz et al.
    2018, "Progress & Compress"): F* = gamma F* + F around the newest weights alone.

    In a stock Trainer: `Trainer(callbacks=[Tasks(), EWC(100.0)], plugins=[OrderedPrecision()])`; see `Tasks`.

    Args:
        strength: lambda.
        fisher: `expected`: over all classes (C backward passes a batch; logits (B, C) only). `true`: a label drawn
            from the model for each sample or position. `empirical`: the data's own labels.
        online: One centre, at the newest task's weights.
        gamma: Of `online`: what stays of the earlier importances.
        samples: Most samples of a task to take; all if not given.
        batch_size: Samples of a rank's batch.
    """

    def __init__(
        self,
        strength: float = 100.0,
        *,
        fisher: Fisher = "true",
        online: bool = False,
        gamma: float = 1.0,
        samples: int | None = None,
        batch_size: int = 256,
    ) -> None:
        super().__init__(strength, decay=gamma if online else 1.0, recentred=online)
        self.fisher, self.samples, self.batch_size = fisher, samples, batch_size

    def on_task_end(self, trainer: Trainer, pl_module: LightningModule, task: int) -> None:
        """Take the Fisher information of the task that ends. Collective."""
        losses = self._losses(trainer, task)
        self.absorb(
            mean_over_task(
                trainer, pl_module, task, losses, torch.square, batch_size=self.batch_size, limit=self.samples
            )
        )

    def _losses(self, trainer: Trainer, task: int) -> Callable[[Tensor, Any], Tensor]:
        device = trainer.strategy.root_device

        def labels(batch: Any) -> Tensor:
            return of_batch(batch, LABELS).to(device)  # type: ignore[no-any-return]

        if self.fisher == "expected":
            return expected
        if self.fisher == "empirical":
            return empirical(labels)
        rank, _ = data_ranks(trainer)
        generator = torch.Generator(device).manual_seed(counter_seed("fisher", task, rank) >> 1)
        return sampled(generator, labels)
