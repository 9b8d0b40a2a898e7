"""ZeRO outside Lightning: any optimizer, wrapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from trustformers_pl.errors import RefusedError
from trustformers_pl.gathering import whole
from trustformers_pl.gradients import clip_by_norm, total_norm
from trustformers_pl.mesh import Placement, Wrap
from trustformers_pl.parallel.zero_config import ZeROConfig
from trustformers_pl.parts import build
from trustformers_pl.placed_state import placed_optimizer_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from torch import Tensor, nn


class ZeroOptimizer(Optimizer):
    """An optimizer whose state, gradients or weights are shared out among the ranks of a process group.

    In a loop of one's own:

        optimizer = ZeroOptimizer(AdamW(model.parameters(), lr=1e-3), model, ZeROConfig(stage=2))
        loss = model(batch); loss.backward()
        optimizer.clip_grad_norm_(1.0)
        optimizer.step(); optimizer.zero_grad()

    Gradients are averages over the ranks once the backward pass has ended. Its `param_groups` are the wrapped
    optimizer's, for schedules; their parameters are shards (`DTensor`s).

    Args:
        optimizer: Over the model's parameters, before its first step.
        model: On the device of this rank; equal on all ranks, or made equal to rank 0's. At stage 3 its parameters
            become shards.
        config: The stage and its options; stage 1 if not given.
        process_group: Of the ranks that take part; all if not given.

    Raises:
        RefusedError: There is no process group, the optimizer has state already, or the model cannot be sharded.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        config: ZeROConfig | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        if not dist.is_initialized():
            raise RefusedError("ZeroOptimizer: no process group; call torch.distributed.init_process_group first")
        self.optimizer = optimizer
        self.config = config or ZeROConfig()
        self._wrap: Wrap = build(self.config.wrap(), {})
        self._wrap.refuse(model)
        device = next(model.parameters()).device
        group = process_group or dist.group.WORLD
        assert group is not None
        mesh = DeviceMesh.from_group(group, device.type)
        self._wrap.place(model, Placement(mesh, device))
        self._wrap.take_over([optimizer])
        super().__init__([p for group in optimizer.param_groups for p in group["params"]], dict(optimizer.defaults))
        self.param_groups, self.state, self.defaults = optimizer.param_groups, optimizer.state, optimizer.defaults

    def no_sync(self) -> AbstractContextManager[Any]:
        """Inside, backward passes are of micro-batches before the last one of a step. Stages 2 and 3 reduce anyway."""
        return self._wrap.without_sync()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the wrapped optimizer, after which all ranks have the weights. Collective.

        Args:
            closure: Computes loss and gradients.

        Returns:
            What the closure returned, or None.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        self._wrap.after_backward()
        self.optimizer.step()
        self._wrap.after_step()
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale gradients so that the 2-norm of all of them, over all ranks, is at most `max_norm`. Collective.

        Returns:
            The norm before, a scalar.
        """
        self._wrap.after_backward()
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = total_norm([p.grad for p in parameters])
        clip_by_norm(parameters, max_norm, norm)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, with this rank's shards as DTensors, which `torch.distributed.checkpoint` takes."""
        return self.optimizer.state_dict()

    def full_state_dict(self) -> dict[str, Any]:
        """The same with whole tensors, on rank 0 in host memory; without them elsewhere. Collective."""
        found: dict[str, Any] = whole(self.optimizer.state_dict(), "optimizer")
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state with DTensors of the same ranks, or with whole tensors, equal on all ranks."""
        self.optimizer.load_state_dict(placed_optimizer_state(self.optimizer, state_dict))
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state
