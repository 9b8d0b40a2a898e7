"""A loss whose backward pass is a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class _Delayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, value: Tensor, backward: Callable[[Tensor], None]) -> Tensor:
        del anchor
        ctx.run = backward
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[None, None, None]:
        with torch.enable_grad():
            ctx.run(factor)
        return None, None, None


def delayed(value: Tensor, backward: Callable[[Tensor], None]) -> Tensor:
    """A scalar whose backward pass calls a function, which computes and accumulates gradients itself.

    Args:
        value: Scalar.
        backward: Given the derivative of what is differentiated by this scalar, a scalar itself: a loss scale, a part
            of an accumulation window.
    """
    anchor = torch.empty((), requires_grad=True)
    delayed_value: Tensor = _Delayed.apply(anchor, value.detach(), backward)  # type: ignore[no-untyped-call]
    return delayed_value
