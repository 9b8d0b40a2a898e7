"""A strategy that gives its weights as DTensors and saves on every rank, as a sharding one does."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from trustformers_pl.gathering import place_like


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
