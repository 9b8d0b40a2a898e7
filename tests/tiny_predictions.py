"""Modules and data with something to test and to predict."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset


class Predicts(tiny.Composable):
    """Predicts the sum and the first number of each sample: what came in can be recognised in what comes out."""

    def predict_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> Any:
        return {"first": batch[0][:, 0], "output": self(batch)[:, 0], "row": batch[0]}


class PredictsBadly(tiny.Composable):
    """Answers as its width says, in ways that are no predictions of samples."""

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        answers: list[Any] = [None, {"a": [1], "b": [1, 2]}, {}, {"a": [object()]}, "text", {"a": 1}]
        return answers[int(self.answer)]

    def __init__(self, answer: int = 0) -> None:
        super().__init__()
        self.answer = answer


class Data(tiny.Data):
    """Ten samples to test and to predict, in batches of four."""

    def __init__(self, rows: int = 10, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rows = rows

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(tiny.samples(self.rows), batch_size=4)

    predict_dataloader = test_dataloader


class Two(Data):
    """Two loaders."""

    def predict_dataloader(self) -> Any:
        return [DataLoader(tiny.samples(3), 2), DataLoader(tiny.samples(5), 4)]


class Endless(Data):
    """Samples without an index."""

    def predict_dataloader(self) -> Any:
        return DataLoader(_Stream(), 4)


class _Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(tiny.samples(6))


def first_numbers(rows: int) -> list[float]:
    """What the file of predictions must hold under `first`, in order."""
    return torch.stack([x for x, _ in tiny.samples(rows)])[:, 0].tolist()
