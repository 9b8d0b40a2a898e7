"""Elastic weight consolidation: weights that mattered to earlier tasks are held by their Fisher information."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from typing_extensions import override

from trustformers_pl.continual.importance import SAMPLES, ImportancePenalty
from trustformers_pl.continual.labels import IGNORED, LABELS, of_batch
from trustformers_pl.continual.likelihood import cross_entropies, expected
from trustformers_pl.continual.sampled_importance import mean_over_task
from trustformers_pl.data.order import counter_seed, counter_uniform
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from trustformers_pl.continual.passes import Part

IMPOSSIBLE = -1e4
"""In place of -inf, whose product with its probability of 0 is no number."""
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
        samples: Most samples of a task to take, drawn by its number; all if None.
        batch_size: Samples of a rank's batch.
    """

    def __init__(
        self,
        strength: float = 100.0,
        *,
        fisher: Fisher = "true",
        online: bool = False,
        gamma: float = 1.0,
        samples: int | None = SAMPLES,
        batch_size: int = 256,
    ) -> None:
        super().__init__(strength, decay=gamma if online else 1.0, recentred=online)
        self.fisher, self.samples, self.batch_size = fisher, samples, batch_size

    def on_task_end(self, trainer: Trainer, pl_module: LightningModule, task: int) -> None:
        """Take the Fisher information of the task that ends. Collective."""
        self.absorb(self._taken(trainer, pl_module, task))

    @override
    def rehearse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it of one sample, for nothing.

        Raises:
            RefusedError: All classes are asked for, and logits are not (B, C).
        """
        self._taken(trainer, pl_module, 0, rehearsal=True)

    def _taken(
        self, trainer: Trainer, module: LightningModule, task: int, *, rehearsal: bool = False
    ) -> dict[str, Tensor]:
        def losses(logits: Tensor, part: Part) -> Tensor:
            return self._losses(logits, part, task)

        size, limit = self.batch_size, self.samples
        return mean_over_task(
            trainer, module, task, losses, torch.square, batch_size=size, limit=limit, rehearsal=rehearsal
        )

    def _losses(self, logits: Tensor, part: Part, task: int) -> Tensor:
        if self.fisher == "expected":
            if logits.dim() != 2:
                shape = tuple(logits.shape)
                raise RefusedError(f"ewc.fisher: expected is for logits (B, C), and these are {shape}; use `true`")
            return expected(logits.masked_fill(logits.isinf(), IMPOSSIBLE), part.batch)
        labels = of_batch(part.batch, LABELS).to(logits.device)
        if self.fisher == "true":
            drawn = drawn_labels(logits.detach(), part.indices, "fisher", task)
            labels = drawn.masked_fill(labels == IGNORED, IGNORED)
        return cross_entropies(logits, labels)


@torch.no_grad()
def drawn_labels(logits: Tensor, indices: Tensor, *coordinates: int | str) -> Tensor:
    """One class for each sample or position, drawn from the model.

    A sample's draw follows from its index, and not from the batch or the rank that it comes to.

    Args:
        logits: (B, ..., C).
        indices: (B,) int64, of the samples.
        *coordinates: What else the draws follow from.

    Returns:
        (B, ...) int64.
    """
    inner = logits.shape[1:-1]
    counters = (indices.cpu().unsqueeze(1) << 32) + torch.arange(inner.numel())
    numbers = counter_uniform(counter_seed(*coordinates), counters).view(-1, *inner).to(logits.device)
    up_to = logits.double().softmax(-1).cumsum(-1)
    return (up_to / up_to[..., -1:] <= numbers.unsqueeze(-1)).sum(-1)
