"""Shards that an optimizer trains in host memory, while the model's lie on an accelerator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.optim import Optimizer


class HostShards:
    """Copies, in host memory, of a module's sharded parameters: what its optimizers train (ZeRO-Offload).

    Ren et al. 2021, "ZeRO-Offload: Democratizing Billion-Scale Model Training". Each gradient is moved to the host when
    it is complete, and the device's is freed.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []

    def take_over(self, optimizers: Sequence[Optimizer]) -> Mapping[int, Tensor]:
        """Give the optimizers copies of their parameters.

        Args:
            optimizers: Whose parameters are DTensors.

        Returns:
            By the `id` of each parameter, its copy.
        """
        self._pairs = []
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["params"] = [self._copied(parameter) for parameter in group["params"]]
        return {id(own): copy for own, copy in self._pairs}

    def _copied(self, own: nn.Parameter) -> nn.Parameter:
        part: Tensor = own._local_tensor  # type: ignore[attr-defined]
        on_host = torch.empty_like(part, device="cpu", pin_memory=part.is_cuda).copy_(part.detach())
        copy = nn.Parameter(_like(on_host, own), requires_grad=own.requires_grad)
        self._pairs.append((own, copy))
        return copy

    def collect(self) -> None:
        """Move the gradients of a backward pass to the host."""
        for own, copy in self._pairs:
            if own.grad is None:
                continue
            gradient = own.grad._local_tensor.to("cpu")  # type: ignore[attr-defined]
            if copy.grad is None:
                copy.grad = _like(gradient, own)
            else:
                copy.grad._local_tensor.add_(gradient)  # type: ignore[attr-defined]
            own.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Bring the copies' values to the device."""
        for own, copy in self._pairs:
            own._local_tensor.copy_(copy._local_tensor)  # type: ignore[attr-defined]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the device's values over."""
        for own, copy in self._pairs:
            copy._local_tensor.copy_(own._local_tensor)  # type: ignore[attr-defined]


def _like(part: Tensor, own: Any) -> DTensor:
    return DTensor.from_local(
        part, own.device_mesh, own.placements, run_check=False, shape=own.shape, stride=own.stride()
    )
