"""What a person watches in float16 training: the loss scale, skipped steps, and what became zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.precision.amp import AMP
from trustformers_pl.tracking.log import is_due, log_scalars

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor
    from torch.optim import Optimizer


class LossScaleMonitor(Callback):
    """Logs `loss_scale`, `skipped_steps` (all so far) and `underflow` on the optimizer steps that Lightning logs.

    For a Trainer whose Precision is `AMP` with a loss scale. `loss_scale` is the one that the step was taken with.
    """

    def __init__(self) -> None:
        self._measured: dict[str, float] | None = None

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure what the gradients tell."""
        precision = trainer.precision_plugin
        if isinstance(precision, AMP) and precision.loss_scale is not None and is_due(trainer):
            gradients = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
            self._measured = {"loss_scale": precision.loss_scale, "underflow": underflow(gradients)}

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Log it, once it is known whether the step was skipped."""
        if self._measured is not None:
            precision = trainer.precision_plugin
            assert isinstance(precision, AMP)
            log_scalars(trainer, {**self._measured, "skipped_steps": float(precision.skipped_steps)})
            self._measured = None


def underflow(gradients: Iterable[Tensor]) -> float:
    """The share of gradient elements that are zero although their row is not.

    Rows that are zero throughout are left out: those of tokens that the batch does not have, say. The rest became zero
    because 16 bits have nothing between zero and their smallest number (6e-8 for float16, over the loss scale).

    Args:
        gradients: Of any shapes; a row is what the last dimension runs over, a scalar is one row.

    Returns:
        Between 0 and 1; 0 where every row is zero.
    """
    zeros, elements = 0, 0
    for gradient in gradients:
        local = gradient.to_local() if hasattr(gradient, "to_local") else gradient
        rows = local.reshape(-1, local.shape[-1]) if local.ndim else local.reshape(1, 1)
        live = rows[(rows != 0).any(dim=1)]
        zeros += live.numel() - int(torch.count_nonzero(live))
        elements += live.numel()
    return zeros / elements if elements else 0.0
