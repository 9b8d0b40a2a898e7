"""Loss terms with counts of their own, in windows split unevenly over micro-batches and ranks; and plain autograd.

Started by test_own_counts.py. Every number that it gives is of the gradients right before an optimizer step, and of the
weights that they belong to.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trustformers_pl import DecomposedLoss, LossTerm
from trustformers_pl.environment import cluster_environment
from trustformers_pl.loop import exact_loop
from trustformers_pl.parallel import Dimension, MeshStrategy, Replicate
from trustformers_pl.precision_order import OrderedPrecision

if TYPE_CHECKING:
    from trustformers_pl.gradients import GradientStep

WINDOW, WINDOWS, EPOCHS, LENGTH = 24, 3, 2, 5
MARKED, RARE, SAME, SIZE = 0.7, 1.3, 0.4, 0.2  # weights of the terms
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def samples() -> list[Tensor]:
    """x (N, 6), targets, valid elements and rare elements (N, LENGTH), marked samples (N,).

    A third of the samples has no valid element, so that some micro-batches have none, and none marked, and none rare.
    """
    generator = torch.Generator().manual_seed(0)
    number = WINDOW * WINDOWS
    x, y = torch.randn(number, 6, generator=generator), torch.randn(number, LENGTH, generator=generator)
    lengths = torch.randint(-2, LENGTH + 1, (number, 1), generator=generator)
    valid = torch.arange(LENGTH) < lengths
    rare = torch.rand(number, LENGTH, generator=generator) < 0.1
    marked = torch.rand(number, generator=generator) < 0.3
    return [x, y, valid, rare, marked]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, LENGTH))


def of_marked(module: Any, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Counts samples, where the loss counts elements."""
    return (outputs.mean(1) ** 2 * batch[4]).sum(), batch[4].sum()


def of_rare(module: Any, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Counts other elements than the loss."""
    return (outputs.abs() * batch[3]).sum(), batch[3].sum()


def of_same(module: Any, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Counts twice what the loss counts."""
    return (outputs.sin() * batch[2]).sum(), 2 * batch[2].sum()


def of_weights(module: Any, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    weight = module.net[0].weight
    return (weight**2).sum(), torch.tensor(weight.numel())


TERMS = (
    LossTerm("marked", of_marked, MARKED, lambda module, batch: batch[4].sum()),
    LossTerm("rare", of_rare, RARE, lambda module, batch: int(batch[3].sum())),
    LossTerm("same", of_same, SAME, "loss"),
    LossTerm("size", of_weights, SIZE, "weights"),
)


class Job(DecomposedLoss, LightningModule):
    loss_terms = TERMS

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, batch: list[Tensor]) -> Tensor:
        return self.net(batch[0])

    def loss(self, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        return ((outputs - batch[1]) ** 2 * batch[2]).sum(), batch[2].sum()

    def loss_count(self, batch: list[Tensor]) -> Tensor:
        return batch[2].sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.3)


class FloatCounts(Job):
    """Whose counts are float32 already: nothing may add other ranks' counts to the very tensor."""

    def loss(self, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        total, count = super().loss(outputs, batch)
        return total, count.float()


class Seen:
    """A rule that keeps weights and gradients of each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[list[float], list[float]]] = []

    def __call__(self, step: GradientStep) -> None:
        flat = [torch.cat([t.detach().flatten() for t in some]) for some in (step.parameters, step.gradients)]
        self.steps.append((flat[0].tolist(), flat[1].tolist()))


def split(number: int, parts: int, seed: int) -> list[list[int]]:
    """The first numbers in `parts` pieces, none empty, of sizes that are drawn."""
    cuts = sorted(random.Random(seed).sample(range(1, number), parts - 1))
    return [list(range(a, b)) for a, b in zip([0, *cuts], [*cuts, number], strict=True)]


class Split(LightningDataModule):
    """Each window's samples, cut into uneven micro-batches; in the last window there are fewer of them."""

    def __init__(self, rank: int, ranks: int, micro: int) -> None:
        super().__init__()
        self.batches = []
        for window in range(WINDOWS):
            of_this = micro if window < WINDOWS - 1 else (micro + 1) // 2
            pieces = split(WINDOW, ranks * of_this, 100 * micro + window)[rank * of_this : (rank + 1) * of_this]
            self.batches += [[window * WINDOW + i for i in piece] for piece in pieces]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*samples()), batch_sampler=self.batches)


def fit(micro: int, data: Any = None, module: LightningModule | None = None, **more: Any) -> Seen:
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    seen, scaler = Seen(), more.pop("scaler", None)
    strategy = MeshStrategy([Dimension("data_parallel", wrap=Replicate())]) if ranks > 1 else "auto"
    arguments = {"max_epochs": EPOCHS, "accumulate_grad_batches": micro, "devices": ranks, "strategy": strategy}
    trainer = Trainer(
        accelerator="cpu", use_distributed_sampler=False, **QUIET, **{**arguments, **more},
        plugins=[cluster_environment(), OrderedPrecision(rules={"penalties": [seen]}, scaler=scaler)],
    )  # fmt: skip
    exact_loop(trainer).fit(module or Job(), Split(rank, ranks, micro) if data is None else data)
    return seen


def reference(weights: list[float], window: int, terms: bool = True) -> list[float]:
    """The gradient by torch alone, in float64, with one forward pass over the whole window: the definition."""
    net = network().double()
    nn.utils.vector_to_parameters(torch.tensor(weights, dtype=torch.float64), net.parameters())
    x, y, valid, rare, marked = (value[window * WINDOW : (window + 1) * WINDOW] for value in samples())
    outputs = net(x.double())
    loss = ((outputs - y) ** 2)[valid].mean()
    if terms:
        loss = loss + MARKED * (outputs.mean(1) ** 2)[marked].mean() + RARE * outputs.abs()[rare].mean()
        loss = loss + SAME * outputs.sin()[valid].sum() / (2 * valid.sum()) + SIZE * (net[0].weight ** 2).mean()  # type: ignore[operator]
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in net.parameters()]).tolist()  # type: ignore[union-attr]


def largest_error(seen: Seen) -> float:
    """Of any gradient of any step; there must be a step for each window of each epoch."""
    assert len(seen.steps) == WINDOWS * EPOCHS
    errors = [
        torch.tensor(gradients, dtype=torch.float64) - torch.tensor(reference(weights, step % WINDOWS))
        for step, (weights, gradients) in enumerate(seen.steps)
    ]
    return max(error.abs().max().item() for error in errors)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for switch in ("lean", "stock"):
        os.environ["TFPL_LOOP"] = switch
        found |= {f"{switch} {micro}": largest_error(fit(int(micro))) for micro in sys.argv[1:]}
        found[f"{switch} ddp"] = largest_error(fit(3, module=FloatCounts(), strategy="ddp"))
    print(json.dumps(found))
