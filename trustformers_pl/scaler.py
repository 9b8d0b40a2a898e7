"""Torch's loss scaler, for gradients of which each rank holds a part."""

from __future__ import annotations

from typing import Any

import torch

from trustformers_pl.shards import agree_on_any, are_sharded, local


class ShardedGradScaler(torch.amp.GradScaler):
    """As torch's, for plain gradients and DTensors on any meshes: all ranks agree on whether a step overflows.

    Each rank looks at its own shards; were the ranks not to agree, some would skip a step that others take, and their
    scales would drift apart.
    """

    def _unscale_grads_(self, optimizer: Any, inv_scale: Any, found_inf: Any, allow_fp16: bool) -> Any:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not are_sharded(gradients):
            return super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16)
        kinds: dict[torch.dtype, list[torch.Tensor]] = {}
        for gradient in gradients:
            part = local(gradient)
            if part.numel():
                kinds.setdefault(part.dtype, []).append(part)
        for parts in kinds.values():
            torch._amp_foreach_non_finite_check_and_unscale_(parts, found_inf, inv_scale)
        agree_on_any(found_inf, gradients)
        return {found_inf.device: found_inf}
