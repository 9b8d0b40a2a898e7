"""One job, split over micro-batches and ranks in many ways: started by test_gradients.py, and its plain reference."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from trustformers_pl import DecomposedLoss, LossTerm
from trustformers_pl.environment import cluster_environment
from trustformers_pl.loop import exact_loop
from trustformers_pl.parallel import Dimension, MeshStrategy, Replicate
from trustformers_pl.precision_order import OrderedPrecision

if TYPE_CHECKING:
    from trustformers_pl.gradients import GradientStep

GLOBAL_BATCH, STEPS, CLIP, PULL, TERM, DECAYED = 16, 5, 0.5, 0.3, 0.7, 0.2


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(GLOBAL_BATCH * STEPS, 6, generator=generator)
    y = torch.randn(GLOBAL_BATCH * STEPS, 3, generator=generator)
    valid = (
        torch.rand(GLOBAL_BATCH * STEPS, 3, generator=generator) < torch.linspace(0.1, 1, GLOBAL_BATCH * STEPS)[:, None]
    )
    valid[:, 0] = True
    return x, y, valid


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def magnitude(module: Any, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    """A term over the same valid elements as the loss."""
    return (outputs.abs() * batch[2]).sum(), batch[2].sum()


def size(module: Any, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    """A term of the weights alone."""
    weight = module.net[0].weight
    return (weight**2).sum(), torch.tensor(weight.numel())


WITH_TERMS = os.environ.get("SPLIT_JOB_TERMS", "1") == "1"


class Job(DecomposedLoss, LightningModule):
    loss_terms = (
        (LossTerm("magnitude", magnitude, TERM, "loss"), LossTerm("size", size, DECAYED, "weights"))
        if WITH_TERMS
        else ()
    )

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, batch: list[Tensor]) -> Tensor:
        return self.net(batch[0])

    def loss(self, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        return (((outputs - batch[1]) ** 2) * batch[2]).sum(), batch[2].sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.05, eps=1e-4)


class Pull:
    """A gradient penalty: 0.5 * PULL * |w - w0|^2, added in the phase `penalties`."""

    def __init__(self) -> None:
        self.start: list[Tensor] | None = None

    def __call__(self, step: GradientStep) -> None:
        if self.start is None:
            self.start = [p.detach().clone() for p in step.parameters]
        for p, start in zip(step.parameters, self.start, strict=True):
            p.grad.add_(p.detach() - start, alpha=PULL)  # type: ignore[union-attr]


class Slices(LightningDataModule):
    """Each rank's contiguous share of each global batch, cut into micro-batches."""

    def __init__(self, rank: int, ranks: int, micro: int) -> None:
        super().__init__()
        share = GLOBAL_BATCH // ranks
        self.indices = [g * GLOBAL_BATCH + rank * share + i for g in range(STEPS) for i in range(share)]
        self.micro = share // micro

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Subset(TensorDataset(*inputs()), self.indices), self.micro)


def reference(terms: bool = True) -> list[float]:
    """The same training by torch alone: whole batches, autograd over the mean, in one process."""
    net = network()
    start = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, eps=1e-4)
    for x, y, valid in DataLoader(TensorDataset(*inputs()), GLOBAL_BATCH):
        optimizer.zero_grad()
        outputs = net(x)
        loss = ((outputs - y) ** 2)[valid].mean()
        if terms:
            loss = loss + TERM * outputs.abs()[valid].mean() + DECAYED * (net[0].weight ** 2).mean()  # type: ignore[index,operator]
        loss = loss + sum(0.5 * PULL * ((p - s) ** 2).sum() for p, s in zip(net.parameters(), start, strict=True))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()]).tolist()


def train(micro: int, **more: Any) -> list[float]:
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    module = Job()
    strategy = MeshStrategy([Dimension("data_parallel", wrap=Replicate())]) if ranks > 1 else "auto"
    trainer = Trainer(
        accelerator="cpu", devices=ranks, strategy=strategy, max_epochs=1, accumulate_grad_batches=micro,
        gradient_clip_val=CLIP, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
        plugins=[cluster_environment(), OrderedPrecision(rules={"penalties": [Pull()]}, **more)],
    )  # fmt: skip
    exact_loop(trainer).fit(module, datamodule=Slices(rank, ranks, micro))
    assert trainer.global_step == STEPS
    return torch.cat([p.detach().flatten() for p in module.net.parameters()]).tolist()


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([train(int(micro)) for micro in sys.argv[1:]]))
