"""Handwritten digits (8 x 8 pixels, 1,797 of them, in scikit-learn), and a small network for them."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset


class Digits(LightningDataModule):
    """Batches of pixels (B, 64) in [0, 1] and digits (B,); a quarter is held out."""

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size
        pixels, digits = load_digits(return_X_y=True)
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
        self.x, self.y = (torch.tensor(pixels) / 16).float()[order], torch.tensor(digits)[order]
        self.cut = 3 * len(digits) // 4

    def train_dataloader(self) -> Any:
        """Three quarters, mixed."""
        data = TensorDataset(self.x[: self.cut], self.y[: self.cut])
        return DataLoader(data, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        """The last quarter."""
        return DataLoader(TensorDataset(self.x[self.cut :], self.y[self.cut :]), batch_size=256)


class Network(LightningModule):
    """Two hidden layers. `forward` and `loss` are all that a composable module needs."""

    def __init__(self, width: int = 100) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )

    def forward(self, batch: list[Tensor]) -> Tensor:
        """Logits (B, 10)."""
        logits: Tensor = self.layers(batch[0])
        return logits

    def loss(self, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The sum of cross-entropies, and the number of samples."""
        return F.cross_entropy(outputs, batch[1], reduction="sum"), torch.tensor(len(batch[1]))


class DigitsInTwoDomains(Digits):
    """Digits as they are, then a few of them as negatives with noise.

    Both domains have the same ten classes; what is held out is the same quarter of each.
    """

    def __init__(self, batch_size: int = 16, few: int = 40) -> None:
        super().__init__(batch_size)
        noise = torch.randn(self.x.shape, generator=torch.Generator().manual_seed(1))
        self.few = few
        self.other = 1 - self.x + 0.2 * noise

    def train_dataloader(self) -> Any:
        """All of the first domain's three quarters, and few of the second's."""
        data = [TensorDataset(x[:n], self.y[:n]) for x, n in ((self.x, self.cut), (self.other, self.few))]
        return DataLoader(ConcatDataset(data), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        """The last quarter, in both domains."""
        data = [TensorDataset(x[self.cut :], self.y[self.cut :]) for x in (self.x, self.other)]
        return DataLoader(ConcatDataset(data), batch_size=256)
