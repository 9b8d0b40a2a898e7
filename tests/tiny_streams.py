"""Tiny data that is not simply shuffled: streams with random augmentation, and samplers that decide the order."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import tiny
import torch
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler, get_worker_info

if TYPE_CHECKING:
    from collections.abc import Iterator


class Noisy(IterableDataset[Any]):
    """A worker's share of some samples, with noise from all three generators."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for index in range(first, len(self.samples), step):
            inputs, target = self.samples[index]
            yield inputs + torch.rand(()) * np.random.rand() * random.random(), target


class Streamed(tiny.Data):
    """A stream without a length."""

    def __init__(self, count: int = 30, num_workers: int = 0) -> None:
        super().__init__(count=count)
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[Any]:
        noisy = Noisy(super().train_dataloader().dataset)
        return DataLoader(noisy, 4, num_workers=self.num_workers, persistent_workers=self.num_workers > 0)


class Weighted(tiny.Data):
    """Samples drawn with replacement."""

    def train_dataloader(self) -> DataLoader[Any]:
        dataset: Any = super().train_dataloader().dataset
        return DataLoader(dataset, 4, sampler=WeightedRandomSampler(torch.arange(1.0, len(dataset) + 1).tolist(), 30))
