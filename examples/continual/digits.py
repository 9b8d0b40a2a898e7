"""Handwritten digits (8 x 8 pixels, 1,797 of them, in scikit-learn), and a small network for them."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Dataset


class Images(Dataset[dict[str, Tensor]]):
    """Samples `x` (64,) in [0, 1] and `labels` (): mappings, as `der` asks for; any other feature takes pairs, too."""

    deterministic = True  # nothing is drawn at random

    def __init__(self, x: Tensor, labels: Tensor) -> None:
        self.x, self.labels = x, labels

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.labels[index]}


class Digits(LightningDataModule):
    """Batches of pixels `x` (B, 64) in [0, 1] and digits `labels` (B,); a quarter is held out."""

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size
        pixels, digits = load_digits(return_X_y=True)
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
        self.x, self.y = (torch.tensor(pixels) / 16).float()[order], torch.tensor(digits)[order]
        self.cut = 3 * len(digits) // 4

    def train_dataloader(self) -> Any:
        """Three quarters, mixed."""
        data = Images(self.x[: self.cut], self.y[: self.cut])
        return DataLoader(data, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        """The last quarter."""
        return DataLoader(Images(self.x[self.cut :], self.y[self.cut :]), batch_size=256)


class Network(LightningModule):
    """Two hidden layers. `forward` and `loss` are all that a composable module needs."""

    def __init__(self, width: int = 100) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, 10)."""
        logits: Tensor = self.layers(batch["x"])
        return logits

    def loss(
        self, outputs: Tensor, batch: dict[str, Tensor], sample_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The sum of cross-entropies, each times the weight of its sample if there are any, and how many there are."""
        losses = F.cross_entropy(outputs, batch["labels"], reduction="none")
        return (losses if sample_weights is None else losses * sample_weights).sum(), torch.tensor(len(losses))


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
        data = [Images(x[:n], self.y[:n]) for x, n in ((self.x, self.cut), (self.other, self.few))]
        return DataLoader(ConcatDataset(data), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        """The last quarter, in both domains."""
        data = [Images(x[self.cut :], self.y[self.cut :]) for x in (self.x, self.other)]
        return DataLoader(ConcatDataset(data), batch_size=256)
