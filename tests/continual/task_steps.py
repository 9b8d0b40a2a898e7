"""Tasks of a fixed number of steps over data that are in order, for callbacks that are told where tasks end."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning import Callback, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from trustformers_pl import DecomposedLoss
from trustformers_pl.continual import ReplayedRows
from trustformers_pl.data.loader import ResumableLoader
from trustformers_pl.data.phases import DataPhases


class Points(Dataset[Any]):
    """Four clusters; the first half of the samples has the classes 0 and 1, the second half 2 and 3."""

    deterministic = True

    def __init__(self, number: int = 64) -> None:
        generator = torch.Generator().manual_seed(1)
        self.y = torch.cat([torch.arange(number // 2) % 2, 2 + torch.arange(number // 2) % 2])
        self.x = torch.randn(number, 3, generator=generator) + 2 * F.one_hot(self.y, 4)[:, :3]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


class Net(DecomposedLoss, LightningModule):
    def __init__(self, double: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        kind = torch.float64 if double else torch.float32
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 4)).to(kind)
        self.trained: list[dict[str, Tensor]] = []

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["x"].to(self.net[0].weight.dtype))

    def features(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net[:2](batch["x"].to(self.net[0].weight.dtype))

    def loss(self, outputs: Tensor, batch: Any, sample_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.training:
            self.trained.append(batch)
        losses = F.cross_entropy(outputs, batch["labels"], reduction="none")
        return (losses if sample_weights is None else losses * sample_weights).sum(), torch.tensor(len(losses))

    def loss_count(self, batch: Any) -> Tensor:
        return torch.tensor(len(batch["labels"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TwoTasks(Callback):
    """The halves of `Points`, in order: what `Tasks` tells of them."""

    scenario = "class"

    def __init__(self, after_step: int) -> None:
        self.after_step = after_step

    def mask(self, task: int) -> Tensor:
        return torch.arange(4) // 2 == task

    def batches(self, task: int) -> Any:
        points = Points()
        half = torch.utils.data.Subset(points, range(32 * task, 32 * task + 32))
        return iter(DataLoader(half, 8))

    def _tell(self, name: str, trainer: Any, module: Any, task: int) -> None:
        for callback in trainer.callbacks:
            if hasattr(callback, name):
                getattr(callback, name)(trainer, module, task)

    def on_train_batch_end(self, trainer: Any, module: Any, *arguments: Any) -> None:
        if trainer.global_step == self.after_step:
            self._tell("on_task_end", trainer, module, 0)
            self._tell("on_task_start", trainer, module, 1)


def loader(mixes: bool = True) -> ResumableLoader:
    phases = DataPhases(mix=(ReplayedRows(),)) if mixes else DataPhases()
    return ResumableLoader(DataLoader(Points(), 8), seed=0, phases=phases)


def trained(module: Net, callbacks: list[Callback], steps: int = 8, data: Any = None, **arguments: Any) -> L.Trainer:
    """A stock Trainer that has trained for an epoch of eight steps, or less."""
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks, use_distributed_sampler=False, **arguments,
    )  # fmt: skip
    trainer.fit(module, loader() if data is None else data)
    return trainer
