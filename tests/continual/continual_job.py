"""A recipe of five tasks of two digits each, for a small network, and what a test needs to look at it."""

from __future__ import annotations

from typing import Any

import torch
from digits_tasks import network, tasks
from lightning import LightningDataModule, LightningModule
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

TEN = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


class Digits(LightningDataModule):
    """Pixels and digits, mixed; `every` thins them out."""

    def __init__(self, batch_size: int = 16, every: int = 1, drop_last: bool = False) -> None:
        super().__init__()
        self.batch_size, self.every, self.drop_last = batch_size, every, drop_last

    def _loader(self, x: list[Tensor], y: list[Tensor], **options: Any) -> Any:
        data = TensorDataset(torch.cat(x)[:: self.every], torch.cat(y)[:: self.every])
        return DataLoader(data, batch_size=self.batch_size, **options)

    def train_dataloader(self) -> Any:
        return self._loader([t.x for t in tasks()], [t.y for t in tasks()], shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> Any:
        return self._loader([t.test_x for t in tasks()], [t.test_y for t in tasks()])


class Network(LightningModule):
    """100-100-10, composable: `forward` and `loss`."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = network(0)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, batch: list[Tensor]) -> Tensor:
        return self.layers(self.dropout(batch[0]))

    def loss(self, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        return F.cross_entropy(outputs, batch[1], reduction="sum"), torch.tensor(len(batch[1]))


class Named(Dataset[Any]):
    """The samples of another dataset as mappings."""

    deterministic = True

    def __init__(self, pairs: Any) -> None:
        self.pairs, self.labels = pairs, pairs.tensors[1]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, label = self.pairs[index]
        return {"x": x, "labels": label}


class NamedDigits(Digits):
    """Batches are mappings."""

    def _loader(self, x: list[Tensor], y: list[Tensor], **options: Any) -> Any:
        return DataLoader(Named(super()._loader(x, y).dataset), batch_size=self.batch_size, **options)


class Damaged(Named):
    """The first sample, and every fiftieth, cannot be read."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index % 50 == 0:
            raise OSError("damaged")
        return super().__getitem__(index)


class DamagedDigits(Digits):
    """Some samples cannot be read."""

    def train_dataloader(self) -> Any:
        pairs = super().train_dataloader().dataset
        return DataLoader(Damaged(pairs), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(Named(super().val_dataloader().dataset), batch_size=self.batch_size)


class Weighable(Network):
    """For batches that are mappings; its loss takes a weight for each sample."""

    def forward(self, batch: Any) -> Tensor:
        return self.layers(self.dropout(batch["x"]))

    def loss(self, outputs: Tensor, batch: Any, sample_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        losses = F.cross_entropy(outputs, batch["labels"], reduction="none")
        return (losses if sample_weights is None else losses * sample_weights).sum(), torch.tensor(len(losses))

    def loss_count(self, batch: Any) -> Tensor:
        return torch.tensor(len(batch["labels"]))


def recipe(section: dict[str, Any] | None = None, every: int = 8, **more: Any) -> dict[str, Any]:
    sections: dict[str, Any] = {
        "seed": 0,
        "model": {"class_path": "continual_job.Network", "init_args": {"dropout": 0.1}},
        "data": {"class_path": "continual_job.Digits", "init_args": {"every": every}},
        "tasks": {"scenario": "task", "classes": TEN, **(section or {})},
        "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9},
        "trainer": {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, "max_epochs": 100},
        "csv": {},
        "metrics": {"tokens_per_second": False},
        "checkpoint": {"every_n_steps": 3, "keep_last": 100},
    }
    return sections | more
