"""Memory aware synapses as a feature: weights to which the answers to earlier tasks are sensitive are held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from typing_extensions import override

from trustformers_pl.continual.importance import SAMPLES, ImportancePenalty
from trustformers_pl.continual.mas import squared_norms
from trustformers_pl.continual.sampled_importance import mean_over_task

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from trustformers_pl.continual.passes import Part


class MAS(ImportancePenalty):
    """Adds strength sum_i Omega_i (w_i - a_i)^2, Omega the sum over earlier tasks of how much answers depend on w_i.

    Aljundi et al. 2018, "Memory Aware Synapses", equations 2 and 3; a are the newest task's weights. It needs no
    labels.

    In a stock Trainer: `Trainer(callbacks=[Tasks(), MAS(1.0)], plugins=[OrderedPrecision()])`; see `Tasks`.

    Args:
        strength: lambda.
        samples: Most samples of a task to take, drawn by its number; all if None.
        batch_size: Samples of a rank's batch.
    """

    def __init__(self, strength: float = 1.0, *, samples: int | None = SAMPLES, batch_size: int = 256) -> None:
        super().__init__(2 * strength)
        self.samples, self.batch_size = samples, batch_size

    def on_task_end(self, trainer: Trainer, pl_module: LightningModule, task: int) -> None:
        """Take the sensitivity of the task that ends. Collective."""
        self.absorb(self._taken(trainer, pl_module, task))

    @override
    def rehearse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it of one sample, for nothing."""
        self._taken(trainer, pl_module, 0, rehearsal=True)

    def _taken(
        self, trainer: Trainer, module: LightningModule, task: int, *, rehearsal: bool = False
    ) -> dict[str, Tensor]:
        size, limit = self.batch_size, self.samples
        return mean_over_task(
            trainer, module, task, _norms, torch.abs, batch_size=size, limit=limit, rehearsal=rehearsal
        )


def _norms(outputs: Tensor, part: Part) -> Tensor:
    """Of the outputs that are no other task's."""
    del part
    return squared_norms(outputs.masked_fill(outputs.isinf(), 0.0))
