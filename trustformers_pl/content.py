"""What a model's weights are, in one number: the same weights give the same number on any machine and any mesh."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from torch import nn


def is_whole(module: nn.Module) -> bool:
    """Whether all tensors of a module have their memory, that is, none is on the meta device."""
    return not any(tensor.is_meta for tensor in _tensors(module).values())


def content_sha256(module: nn.Module) -> str:
    """The sha256 of a module's parameters and persistent buffers: names, dtypes, shapes and bytes.

    Collective where there are DTensors: their global content counts, whatever the placements.

    Args:
        module: Tensors of any shapes, none on the meta device.

    Returns:
        Hexadecimal.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(module).items()):
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        digest.update(f"{name}\0{full.dtype}\0{tuple(full.shape)}\0".encode())
        digest.update(full.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
