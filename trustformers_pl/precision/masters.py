"""16-bit copies of float32 weights for the forward and backward pass: opt level O2."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

if TYPE_CHECKING:
    from collections.abc import Iterator

Slots = list[tuple[dict[str, Tensor | None], str, Tensor]]


class MasterWeights:
    """A module whose own weights are the float32 masters, and which computes with 16-bit copies of them.

    Micikevicius et al. 2018, "Mixed Precision Training", section 3.1: the copies are made by differentiable casts at
    each forward pass, so gradients arrive at the masters in float32. What optimizers, penalties, averages, gradient
    reductions and checkpoints see are the masters alone. Batch normalization keeps its float32 weights and statistics.

    Args:
        module: With float32 weights.
        dtype: `torch.float16` or `torch.bfloat16`.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module = module
        self.dtype = dtype
        self._copies: Slots = []

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Compute with new copies; they stay for the backward pass where gradients are on."""
        self._copies = []
        copies, buffers = self._cast()
        with _in_place(copies):
            yield
        for holder, name, copy in buffers:
            if not copy.is_inference() and copy._version:  # what the forward pass wrote into a buffer
                master = holder[name]
                assert master is not None
                master.copy_(copy)
        if torch.is_grad_enabled():
            self._copies = copies

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Compute with the copies of the last forward pass, as checkpointed activations are computed again."""
        with _in_place(self._copies):
            yield
        self._copies = []

    def _cast(self) -> tuple[Slots, Slots]:
        """Copies of all weights and buffers; of the buffers alone. One copy of what has two names."""
        done: dict[int, Tensor] = {}
        weights: Slots = []
        buffers: Slots = []
        for part in self.module.modules():
            if isinstance(part, _NormBase):
                continue
            for found, holder in ((weights, part._parameters), (buffers, part._buffers)):
                for name, value in holder.items():
                    if value is not None and value.dtype is torch.float32:
                        copy = done.get(id(value))
                        if copy is None:
                            copy = done[id(value)] = value.to(self.dtype)
                        found.append((holder, name, copy))  # type: ignore[arg-type]
        return weights + buffers, buffers


@contextmanager
def _in_place(copies: Slots) -> Iterator[None]:
    """Let modules hold the copies."""
    masters = [(holder, name, holder[name]) for holder, name, _ in copies]
    try:
        for holder, name, copy in copies:
            holder[name] = copy
        yield
    finally:
        for holder, name, master in masters:
            holder[name] = master
