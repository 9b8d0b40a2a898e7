"""Parameter groups by role: which weights decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def decay_groups(module: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices (two and more dimensions) decay; biases, norms and other vectors do not.

    Args:
        module: Its trainable parameters are grouped, by name; a tied one stands once.
        weight_decay: Of the first group.

    Returns:
        Groups with `params` as (name, parameter) pairs, without empty ones.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    decayed = {"params": [pair for pair in named if pair[1].ndim >= 2], "weight_decay": weight_decay}
    plain = {"params": [pair for pair in named if pair[1].ndim < 2], "weight_decay": 0.0}
    return [group for group in (decayed, plain) if group["params"]]
