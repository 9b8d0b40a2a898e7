"""A classifier of points, nine of them to validate on, and a model that always says the same."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trustformers_pl import DecomposedLoss


class Points(Dataset[dict[str, Tensor]]):
    def __init__(self, count: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 4, generator=draw)
        self.labels = torch.randint(0, 3, (count,), generator=draw)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.labels[index]}


class PointData(LightningDataModule):
    def __init__(self, val_count: int = 9) -> None:
        super().__init__()
        self.val_count = val_count

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Points(16, 0), 2, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Points(self.val_count, 1), 2)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Points(7, 2), 2)


class Classifier(DecomposedLoss, LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.layer(batch["x"])

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        losses = nn.functional.cross_entropy(outputs, batch["labels"], reduction="none")
        return losses.sum(), torch.tensor(len(losses))


class DiesInValidation(Classifier):
    """By SIGKILL in the third batch of the second real validation, unless the file `alive` is there."""

    validations = 0

    def on_validation_start(self) -> None:
        self.validations += not self.trainer.sanity_checking

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if self.validations == 2 and batch_idx == 2 and "SPARED" not in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().validation_step(batch, batch_idx)


class Parrot(Classifier):
    """Says the same after every prompt, byte by byte."""

    says = "the cat is on the mat"

    def generate(self, input_ids: Tensor, *, max_new_tokens: int, temperature: float) -> Tensor:
        assert temperature == 0.0
        said = torch.tensor([list(self.says.encode()[:max_new_tokens])])
        return torch.cat([input_ids, said], dim=1)


class Readable(PointData):
    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode()
