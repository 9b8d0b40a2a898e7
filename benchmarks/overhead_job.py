"""The training job of the step overhead benchmark: one model, one stream of batches, one optimizer."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from baton import Baton, token_loader

from trustformers_pl.models import GPT

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from torch import nn

LR, DECAY = 1e-3, 0.1


@dataclass(frozen=True)
class Job:
    """What every variant trains.

    Attributes:
        model: Arguments of GPT.
        batch: Rows of `context_length` tokens in a batch.
        steps: Optimizer steps.
        baton: By which the variants take turns, or None.
        extra: Callbacks that each variant gets besides its own.
        mixins: Bases of each variant's model, before all others.
        folder: Where the variants write.
    """

    model: dict[str, int]
    batch: int
    steps: int
    baton: Baton | None = None
    extra: tuple[Callback, ...] = ()
    mixins: tuple[type, ...] = ()
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp()))

    def built(self, *bases: type) -> Any:
        """A model, the same at each call, of a class with these bases before GPT."""
        torch.manual_seed(0)
        return type("Model", (*self.mixins, *bases, GPT), {})(**self.model)

    def loader(self, name: str) -> Any:
        """The batches of the variant called `name`."""
        return token_loader(name, self.baton, self.steps, self.batch, self.model["context_length"])

    def factor(self, step: int) -> float:
        """The cosine: factor of the peak learning rate."""
        return 0.5 * (1 + math.cos(math.pi * min(step, self.steps) / self.steps))

    def optimizer(self, module: nn.Module) -> tuple[Any, Any]:
        """Fused AdamW with decay of the matrices, and the cosine."""
        parameters = list(module.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
