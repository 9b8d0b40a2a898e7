"""Torch's fused kernels, which read and write each weight once a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim import Optimizer


def fuse(optimizer: Optimizer, takes: Callable[[Tensor], bool] = lambda _: True) -> None:
    """Have an optimizer of torch's take its fused kernel where all its parameters allow it.

    Args:
        optimizer: One with the group setting `fused`; just made.
        takes: Whether this optimizer's kernel takes a floating-point parameter.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    fusible = all(parameter.is_floating_point() and takes(parameter) for parameter in parameters)
    for group in optimizer.param_groups:
        group["fused"] = fusible or None
