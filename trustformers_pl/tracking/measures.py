"""What can be measured of one optimizer step: its losses and its gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustformers_pl.loss_window import sum_over_data_ranks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning import Trainer
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


def window_sums(window: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Sum up the micro-batches of one optimizer step.

    Args:
        window: The `scalars` of each micro-batch.

    Returns:
        Name -> sum and what to divide it by. `train_loss`: the sums of `loss_sum` and of `count` where the module gives
        them (the mean over the window's elements, however unevenly they are split), else those of `loss` and of
        micro-batches. Each further output: its sum, and the number of micro-batches that have it.
    """
    columns: dict[str, list[float]] = {}
    for outputs in window:
        for name, value in outputs.items():
            columns.setdefault(name, []).append(value)
    loss, loss_sums, counts = (columns.pop(name, []) for name in ("loss", "loss_sum", "count"))
    sums = {name: (sum(values), float(len(values))) for name, values in columns.items()}
    if loss_sums and sum(counts):
        sums["train_loss"] = sum(loss_sums), sum(counts)
    elif loss:
        sums["train_loss"] = sum(loss), float(len(loss))
    return sums


def means(sums: Mapping[str, tuple[float, float]], trainer: Trainer) -> dict[str, float]:
    """The means of what was summed up, over all ranks that see different data. Collective where there are several.

    Args:
        sums: As `window_sums` gives them, of the same names on all ranks.
        trainer: That knows the ranks.
    """
    if trainer.world_size > 1 and sums:
        module = trainer.lightning_module
        own = torch.tensor(list(sums.values()), dtype=torch.float64)
        sums = dict(zip(sums, sum_over_data_ranks(own, module).tolist(), strict=True))
    return {name: total / count for name, (total, count) in sums.items()}
