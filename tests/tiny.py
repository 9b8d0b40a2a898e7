"""The smallest modules and data that a run can have; recipes in the tests name them by `class_path`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trustformers_pl import DecomposedLoss

if TYPE_CHECKING:
    from collections.abc import Container


class Composable(DecomposedLoss, LightningModule):
    """A linear regression with its loss taken apart."""

    def __init__(self, width: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: list[Tensor]) -> Tensor:
        return self.layer(self.dropout(batch[0]))

    def loss(self, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        return ((outputs - batch[1]) ** 2).sum(), torch.tensor(len(batch[1]))


class Deep(Composable):
    """Layers that are used in another order than they are declared in, so that DDP rebuilds its buckets."""

    def __init__(self, width: int = 64) -> None:
        super().__init__(width)
        self.last = nn.Linear(width, width)
        self.first = nn.Linear(width, width)

    def forward(self, batch: list[Tensor]) -> Tensor:
        hidden = nn.functional.dropout(self.first(batch[0]).relu(), 0.3, self.training)
        return self.layer(self.last(hidden).relu())


class Weighable(Composable):
    """Takes a weight for each sample."""

    def loss(self, outputs: Tensor, batch: list[Tensor], sample_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        errors = ((outputs - batch[1]) ** 2).sum(1)
        return (errors if sample_weights is None else errors * sample_weights).sum(), torch.tensor(len(errors))


class Countable(Composable):
    """Says ahead what its loss counts."""

    def loss_count(self, batch: list[Tensor]) -> int:
        return len(batch[1])


class OnlyForwardAndLoss(LightningModule):
    """Composable without the mixin: the engine adds it."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)
        self.dropout = nn.Dropout(0.0)

    forward = Composable.forward
    loss = Composable.loss


class Plain(LightningModule):
    """An ordinary LightningModule: a training_step and its own optimizer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return ((self.layer(batch[0]) - batch[1]) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Unoptimized(Plain):
    """Without an optimizer of its own."""

    configure_optimizers = LightningModule.configure_optimizers


class Raises(Plain):
    """Cannot be built."""

    def __init__(self) -> None:
        raise KeyError("no such size")


def samples(count: int, width: int = 4) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, width, generator=generator)
    return TensorDataset(x, x.sum(1, keepdim=True).sin())


class Data(LightningDataModule):
    """Regression on a sine."""

    def __init__(self, count: int = 32, batch_size: int = 4, shuffle: bool = True, num_workers: int = 0) -> None:
        super().__init__()
        self.count, self.batch_size, self.shuffle, self.num_workers = count, batch_size, shuffle, num_workers

    def train_dataloader(self) -> DataLoader[Any]:
        data: Dataset[Any] = samples(self.count)
        return DataLoader(data, self.batch_size, shuffle=self.shuffle and self.count > 0, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(samples(8), 4)


class Wide(Data):
    """Wide enough for sums whose order shows."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(samples(64, 64), 4, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(samples(8, 64), 4)


NOT_A_MODULE = dict


class Raising(Dataset[Any]):
    """A dataset of which some samples cannot be read."""

    def __init__(self, samples: Any, bad: Container[int]) -> None:
        self.samples, self.bad = samples, bad

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        if index in self.bad:
            raise OSError("damaged")
        return self.samples[index]
