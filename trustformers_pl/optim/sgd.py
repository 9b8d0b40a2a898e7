"""SGD: torch's, on its fused kernel where the parameters allow it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor
from typing_extensions import override

from trustformers_pl.optim.fused import fuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim.optimizer import ParamsT


class SGD(torch.optim.SGD):
    r"""Stochastic gradient descent with momentum (Sutskever et al. 2013, "On the importance of initialization").

    The update is torch's own: `g += weight_decay * w`, `b = momentum * b + (1 - dampening) * g` (at the first step
    `b = g`), then `w -= lr * b`, or `w -= lr * (g + momentum * b)` with `nesterov`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
    ) -> None:
        """Make the optimizer.

        Args:
            params: Parameters, named parameters or groups of them.
            lr: Learning rate.
            momentum: How much of the last step's direction stays; 0 for none.
            dampening: How much of a new gradient is kept out of the momentum.
            weight_decay: L2 penalty, added to the gradient, for groups that do not say otherwise.
            nesterov: Take the gradient as it would be one momentum step ahead.

        Raises:
            ValueError: A value that no step can use, `nesterov` without momentum or with dampening, or no parameters.
        """
        super().__init__(
            params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov
        )
        fuse(self, _is_whole_and_full_precision)

    @override
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; on shards, which ZeRO puts in the place of parameters after this was made, without the kernel."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._is_sharded():
            for group in self.param_groups:
                group["fused"] = None
        unfused = [g for g in self.param_groups if g["fused"] and g["momentum"] and self._begins_in_part(g)]
        for group in unfused:
            group["fused"] = None
        super().step()
        for group in unfused:
            group["fused"] = True
        return loss

    def _begins_in_part(self, group: dict[str, Any]) -> bool:
        """Whether some weights begin to train in this step: the kernel takes the first step of all or of none."""
        state = self.state
        begun = [parameter in state for parameter in group["params"] if parameter.grad is not None]
        return any(begun) and not all(begun)

    def _is_sharded(self) -> bool:
        return any(isinstance(parameter, DTensor) for group in self.param_groups for parameter in group["params"][:1])


def _is_whole_and_full_precision(parameter: Tensor) -> bool:
    """What torch 2.13's fused SGD can do: it has no rule for DTensors, and is wrong for half precision on the CPU."""
    return parameter.dtype in (torch.float32, torch.float64) and not isinstance(parameter, DTensor)
