"""What can be measured of one optimizer step: its losses and its gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim import Optimizer


def total_norm(optimizer: Optimizer) -> float:
    """The 2-norm of all gradients of an optimizer's parameters, as one vector.

    Args:
        optimizer: Its parameters may have any shapes; those without a gradient count as zero.

    Returns:
        The norm, as `torch.nn.utils.clip_grad_norm_` defines it.
    """
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def scalars(outputs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a training step's outputs.

    Args:
        outputs: What `training_step` returned.

    Returns:
        Name -> value, for each number and each tensor of one element.
    """
    return {
        name: float(value.detach() if isinstance(value, Tensor) else value)
        for name, value in outputs.items()
        if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
    }


def window_metrics(window: list[dict[str, float]]) -> dict[str, float]:
    """Sum up the micro-batches of one optimizer step.

    Args:
        window: The `scalars` of each micro-batch.

    Returns:
        `train_loss`: the sum of `loss_sum` over the sum of `count` where the module gives them (the mean over the
        window's elements, however unevenly they are split), else the mean of `loss`. Each further output: its mean
        over the micro-batches that have it.
    """
    columns: dict[str, list[float]] = {}
    for outputs in window:
        for name, value in outputs.items():
            columns.setdefault(name, []).append(value)
    loss, loss_sums, counts = (columns.pop(name, []) for name in ("loss", "loss_sum", "count"))
    metrics = {name: sum(values) / len(values) for name, values in columns.items()}
    if loss_sums and sum(counts):
        metrics["train_loss"] = sum(loss_sums) / sum(counts)
    elif loss:
        metrics["train_loss"] = sum(loss) / len(loss)
    return metrics
