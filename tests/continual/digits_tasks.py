"""Five tasks of two digits each (scikit-learn's 8x8 digits), one head a task, and a small network that learns them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F


class Task(NamedTuple):
    """(N, 64) pixels in [0, 1] and (N,) digits, to train and to test on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def tasks() -> list[Task]:
    pixels, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    x, y = (torch.tensor(pixels) / 16).float()[order], torch.tensor(digits)[order]
    train = torch.arange(len(y)) < 0.75 * len(y)
    parts = [y // 2 == number for number in range(5)]
    return [Task(x[of & train], y[of & train], x[of & ~train], y[of & ~train]) for of in parts]


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))


def head(model: nn.Module, batch: Any) -> Tensor:
    """Logits (B, 2) of each sample's own task."""
    return model(batch["x"]).view(-1, 5, 2)[torch.arange(len(batch["y"])), batch["y"] // 2]


def losses(outputs: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(outputs, batch["y"] % 2, reduction="none")


@torch.no_grad()
def accuracies(model: nn.Module) -> list[float]:
    """On the test part of each task; a network that broke has 0.5."""
    found = []
    for task in tasks():
        outputs = head(model, {"x": task.test_x, "y": task.test_y})
        right = (outputs.argmax(1) == task.test_y % 2).float().mean().item()
        found.append(right if bool(outputs.isfinite().all()) else 0.5)
    return found
