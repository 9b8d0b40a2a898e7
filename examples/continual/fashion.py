"""Fashion-MNIST (70,000 pictures of ten kinds of clothes, 28 x 28), and a small network for it."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from trustformers_pl.errors import DataError

HEADERS = {"images-idx3": 16, "labels-idx1": 8}


@cache
def read(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Pixels (N, 784) uint8 and classes (N,) int64; read once.

    Args:
        folder: Of the four IDX files.
        part: `train` or `t10k`.

    Raises:
        DataError: They are not there.
    """
    found = []
    for kind, header in HEADERS.items():
        path = folder / f"{part}-{kind}-ubyte.gz"
        if not path.exists():
            raise DataError(f"{path} is not there; `python fetch.py fashion`, beside fashion.py, fetches it")
        with gzip.open(path) as file:
            found.append(torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=header).copy()))
    images, labels = found
    return images.view(len(labels), -1), labels.long()


class Pictures(Dataset[dict[str, Tensor]]):
    """Mappings of pixels `x` (784,) and `labels` ()."""

    deterministic = True  # nothing random in a sample, so none of them needs a seed

    def __init__(self, x: Tensor, labels: Tensor) -> None:
        self.x, self.labels = x, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One picture."""
        return {"x": self.x[index], "labels": self.labels[index]}


class Fashion(LightningDataModule):
    """Batches of pixels `x` (B, 784) and `labels` (B,).

    Args:
        folder: Of the four IDX files that `fetch.py` writes.
        batch_size: Pictures of a training batch.
        samples: So many training pictures, drawn by a fixed seed; all 60,000 if not given.
        test_samples: Likewise of the 10,000 held out.
    """

    def __init__(
        self,
        folder: str = "fashion",
        batch_size: int = 64,
        samples: int | None = None,
        test_samples: int | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.batch_size = Path(folder), batch_size
        self.sizes = {"train": samples, "t10k": test_samples}

    def pictures(self, part: str) -> tuple[Tensor, Tensor]:
        """Pixels (N, 784) in [0, 1] and classes (N,)."""
        x, labels = read(self.folder.resolve(), part)
        drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: self.sizes[part]]
        return x[drawn].float() / 255, labels[drawn]

    def train_dataloader(self) -> Any:
        """Mixed."""
        return DataLoader(self.dataset("train"), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        """What is held out."""
        return DataLoader(self.dataset("t10k"), batch_size=256)

    def dataset(self, part: str) -> Any:
        """Training or held-out pictures."""
        return Pictures(*self.pictures(part))


class Network(LightningModule):
    """Two hidden layers. `forward` and `loss` are all that a composable module needs."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, 10)."""
        logits: Tensor = self.layers(batch["x"])
        return logits

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The sum of cross-entropies, and the number of samples."""
        return F.cross_entropy(outputs, batch["labels"], reduction="sum"), torch.tensor(len(batch["labels"]))
