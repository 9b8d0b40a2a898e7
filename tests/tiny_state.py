"""Parts with state, of every scope, for the tests of exact resume in one process and on ranks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import tiny
import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, MetricCollection

from trustformers_pl.checkpoint import Checkpoint, resume_path
from trustformers_pl.checkpoint.folder import steps
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.gathering import place_like
from trustformers_pl.state import Scope, State


class Jitter(Callback):
    """Moves the weights at random after each step, with a generator of its own: forgotten state shows in the bits."""

    def __init__(self, seed: int = 1) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter += 1e-3 * torch.rand(parameter.shape, generator=self.generator)

    def state(self) -> State:
        return State({"generator": self.generator.get_state()})

    def load_state(self, state: State) -> None:
        self.generator.set_state(state.value["generator"])


class EveryScope(Callback):
    """One state of each scope, each changed by every batch."""

    batches = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        start = torch.arange(15.0).reshape(5, 3)  # 5 rows: uneven on 2 ranks
        if dist.is_initialized():
            mesh = init_device_mesh("cpu", (dist.get_world_size(),))
            self.average = distribute_tensor(start, mesh, [Shard(0)])
        else:
            self.average = start
        self.losses: list[float] = []
        self.by_worker = {0: {"batches": 0}, 1: {"batches": 0}}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        self.average = self.average * 0.5 + self.batches
        self.losses.append(float(outputs["loss"]))
        self.by_worker[batch_idx % 2]["batches"] += 1 + trainer.global_rank

    def state(self) -> list[State]:
        return [
            State({"batches": self.batches}),
            State({"average": self.average}, scope=Scope.SHARDED),
            State({"losses": self.losses}, scope=Scope.RANK),
            State(self.by_worker, scope=Scope.WORKER),
        ]

    def load_state(self, state: State) -> None:
        match state.scope:
            case Scope.REPLICATED:
                self.batches = state.value["batches"]
            case Scope.SHARDED:
                self.average = place_like(state.value["average"], self.average)
            case Scope.RANK:
                self.losses = list(state.value["losses"])
            case Scope.WORKER:
                self.by_worker = dict(state.value)


class Logging(tiny.Composable):
    """Logs in every way that gathers something over an epoch."""

    def __init__(self) -> None:
        super().__init__(dropout=0.3)
        self.running = MeanMetric()
        errors = {"mse": MeanSquaredError(), "rmse": MeanSquaredError(squared=False), "mae": MeanAbsoluteError()}
        self.errors = MetricCollection(errors)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        result = super().training_step(batch, batch_idx)
        loss = result["loss"].detach()
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("loss_over_ranks", loss, on_epoch=True, on_step=False, sync_dist=True)
        self.log("worst", loss, on_epoch=True, on_step=False, reduce_fx="max")
        self.log("total", loss, on_epoch=True, on_step=False, reduce_fx=sum)
        if batch_idx == 0:
            self.log("first", loss, on_epoch=True, on_step=False)
        if batch_idx % 3 == 0:
            self.log("at_times", loss)  # Lightning shows it again at the steps that do not log it
        self.running(loss)
        self.log("running", self.running, on_step=True, on_epoch=True)
        self.errors.update(self(batch), batch[1])
        return result

    def on_train_start(self) -> None:
        self.log("start", torch.rand(()), on_epoch=True)

    def on_train_epoch_end(self) -> None:
        self.log_dict({f"{name}_of_epoch": value for name, value in self.errors.compute().items()})
        self.errors.reset()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Rows(Logger):
    """Keeps what it is given."""

    name, version = "rows", 0

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((int(step or 0), dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def train(folder: str, *callbacks: Callback, resume: bool = False, module: Any = None, **arguments: Any) -> Trainer:
    """Two epochs of 7 batches in a stock Trainer, saved at every step."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    seed_everything(1 + (dist.get_rank() if ranks > 1 else 0), verbose=False)
    module = module or Logging()
    if ranks > 1:
        arguments = {"strategy": "ddp", "devices": ranks, **arguments}
    trainer = Trainer(
        **{"max_epochs": 2, **arguments},
        accelerator="cpu",
        logger=Rows(),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, Checkpoint(folder=folder, every_n_steps=1, keep_last=100)],
        plugins=[TorchElasticEnvironment() if ranks > 1 else LightningEnvironment()],
    )
    # Seven batches an epoch, on however many ranks they are shared out.
    data = resumable_datamodule(tiny.Data(count=28 * int(os.environ.get("WORLD_SIZE", "1"))), seed=1)
    trainer.fit(module, datamodule=data, ckpt_path=resume_path(folder) if resume else None)
    return trainer


def cut(source: str, target: str, step: int) -> None:
    """A copy of a run's checkpoints as a kill after `step` leaves them."""
    shutil.copytree(source, target)
    for other, path in steps(target).items():
        if other > step:
            shutil.rmtree(path)


def tree(path: str | Path) -> dict[str, bytes]:
    """The files of a checkpoint."""
    return {file.name: file.read_bytes() for file in sorted(Path(path).iterdir())}
