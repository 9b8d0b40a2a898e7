"""What a pass for the Fisher information costs, relative to a plain training epoch over the same batches.

`python benchmarks/fisher_cost.py`

Both passes run over the same samples, in turns, on one thread; shown are the median ratio of CPU time over rounds, and
its quartiles. The plain epoch is forward, backward and a fused AdamW step in batches of the given size; the Fisher pass
takes no steps, so that its batches may be larger.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from continual_data import mlp
from torch import Tensor, nn
from torch.nn import functional as F

from trustformers_pl.continual.fisher import diagonal_fisher
from trustformers_pl.continual.likelihood import empirical, expected
from trustformers_pl.models import GPT

if TYPE_CHECKING:
    from collections.abc import Callable

Job = tuple[nn.Module, dict[str, Tensor], "Callable[[Any, Any], Tensor]"]


class MLP(nn.Module):
    """Linear layers of some sizes, with ReLU between."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = mlp(*sizes)

    def forward(self, batch: Any) -> Tensor:
        """Logits (B, 10)."""
        return self.layers(batch["x"])  # type: ignore[no-any-return]


def labels(batch: Any) -> Tensor:
    """The batch's own."""
    return batch["labels"]  # type: ignore[no-any-return]


def mean_loss(outputs: Tensor, batch: Any) -> Tensor:
    """What the plain epoch trains on."""
    return F.cross_entropy(outputs.flatten(0, -2), batch["labels"].flatten())


def pixels() -> Job:
    """784-256-256-10, as in most papers on permuted and split MNIST."""
    data = {"x": torch.randn(8192, 784), "labels": torch.randint(0, 10, (8192,))}
    return MLP(784, 256, 256, 10), data, empirical(labels)


def digits() -> Job:
    """64-100-100-10 over the digits of scikit-learn, that is over as many samples of their width."""
    data = {"x": torch.randn(1797, 64), "labels": torch.randint(0, 10, (1797,))}
    return MLP(64, 100, 100, 10), data, empirical(labels)


def pixels_expected() -> Job:
    """The exact expectation over 10 labels."""
    return *pixels()[:2], expected


def gpt() -> Job:
    """The default of `GPT`: 0.82 million parameters, tied embeddings, 128 bytes a sample."""
    data = {name: torch.randint(0, 256, (96, 128)) for name in ("input_ids", "labels")}
    return GPT(), data, empirical(labels)


def split(data: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    """Batches of a size."""
    pieces = [value.split(size) for value in data.values()]
    return [dict(zip(data, piece, strict=True)) for piece in zip(*pieces, strict=True)]


def epoch(model: nn.Module, batches: list[Any], optimizer: torch.optim.Optimizer) -> None:
    """A plain one."""
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        mean_loss(model(batch), batch).backward()
        optimizer.step()


def ratios(job: Job, plain: int, fisher: int, rounds: int) -> np.ndarray[Any, Any]:
    """CPU time of the Fisher pass over that of the plain epoch, one number a round; batches of the sizes given."""
    model, data, losses = job
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    small, large = split(data, plain), split(data, fisher)
    turns = {
        "plain": lambda: epoch(model, small, optimizer),
        "fisher": lambda: diagonal_fisher(model, large, losses),
    }
    found = []
    for _ in range(rounds + 1):
        spent = {}
        for name in random.sample([*turns], 2):
            start = time.thread_time()
            turns[name]()
            spent[name] = time.thread_time() - start
        found.append(spent["fisher"] / spent["plain"])
    return np.array(found[1:])


def main() -> None:
    """Print one row a job."""
    parser = argparse.ArgumentParser(description="Cost of the Fisher pass relative to a plain epoch.")
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'model':16} {'batch':>6} {'Fisher batch':>13} {'ratio':>7} {'quartiles':>13}")
    for name, make, plain, fisher in ROWS:
        low, middle, high = np.quantile(ratios(make(), plain, fisher, rounds), [0.25, 0.5, 0.75])
        print(f"{name:16} {plain:6} {fisher:13} {middle:7.2f} {low:6.2f}-{high:.2f}", flush=True)


ROWS: list[tuple[str, Callable[[], Job], int, int]] = [
    ("digits", digits, 10, 512),
    ("digits", digits, 16, 512),
    ("digits", digits, 32, 512),
    ("digits", digits, 64, 512),
    ("mlp", pixels, 10, 1024),
    ("mlp", pixels, 32, 1024),
    ("mlp", pixels, 64, 1024),
    ("mlp", pixels, 128, 1024),
    ("mlp", pixels, 128, 128),
    ("mlp, 10 labels", pixels_expected, 64, 1024),
    ("gpt", gpt, 8, 8),
    ("gpt", gpt, 16, 8),
]

if __name__ == "__main__":
    main()
