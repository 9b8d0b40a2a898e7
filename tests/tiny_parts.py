"""A module of two models: a policy that learns, and a frozen reference that it must not leave too far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from trustformers_pl.model_parts import ModelPart

if TYPE_CHECKING:
    from collections.abc import Mapping


def network(seed: int, dropout: float = 0.3) -> nn.Sequential:
    """A network with dropout and running statistics: its mode shows in its outputs and in its buffers."""
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(dropout), nn.Linear(16, 1))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made


class Policy(LightningModule):
    """Regression, with a penalty for the distance from the reference."""

    def __init__(self, reference_seed: int = 7) -> None:
        super().__init__()
        self.policy, self.reference = network(1), network(reference_seed)

    def parts(self) -> Mapping[str, ModelPart]:
        return {
            "policy": ModelPart(self.policy, forward_methods=("generate",)),
            "reference": ModelPart(self.reference, frozen=True),
        }

    def forward(self, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.policy(batch[0]), self.reference(batch[0])

    def loss(self, outputs: tuple[Tensor, Tensor], batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        predicted, reference = outputs
        penalty = (predicted - reference).square()
        return ((predicted - batch[1]).square() + 0.1 * penalty).sum(), torch.tensor(len(predicted))


class StockPolicy(Policy):
    """The same as an ordinary module, with an optimizer over `self.parameters()`."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss_sum, count = self.loss(self(batch), batch)
        return loss_sum / count

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.named_parameters(), lr=0.01)
