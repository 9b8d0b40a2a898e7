"""A strategy that gives its weights as DTensors and saves on every rank, as a sharding one does."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from trustformers_pl.checkpoint.background import BackgroundWriter
from trustformers_pl.checkpoint.board import Patience
from trustformers_pl.gathering import place_like

if TYPE_CHECKING:
    from lightning import Trainer


class SavesEverywhere(DDPStrategy):
    """Lightning's DDP, but each rank saves a part of the weights, and reads what it needs."""

    saves_on_every_rank = True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        return {
            name: distribute_tensor(value.detach(), mesh, [Shard(0)], src_data_rank=None) if value.ndim else value
            for name, value in super().lightning_module_state_dict().items()
        }

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        own = self.lightning_module.state_dict()
        with torch.no_grad():
            for name, value in checkpoint["state_dict"].items():
                own[name].copy_(place_like(value, own[name]))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_pieces(checkpoint_path)  # type: ignore[attr-defined,no-any-return]


class Trouble(Callback):
    """Before a step of rank 1: its files may not grow any more, or it dies; while its part of a save is due."""

    def __init__(self, kind: str, step: int) -> None:
        self.kind, self.step = kind, step

    def on_train_start(self, trainer: Trainer, *rest: Any) -> None:
        io: Any = trainer.strategy.checkpoint_io
        io.writer, io.patience = BackgroundWriter(pauses=()), Patience(seconds=1000.0, hurried=0.3)

    def on_train_batch_start(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step != self.step or trainer.global_rank != 1:
            return
        if self.kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        trainer.strategy.checkpoint_io.writer.wait()  # type: ignore[attr-defined]
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        Path(f"{self.kind}-{trainer.global_rank}").write_text(f"{trainer.global_step} {type(exception).__name__}")
