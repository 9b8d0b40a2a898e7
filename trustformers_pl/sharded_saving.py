"""What each rank gives to a checkpoint of a run whose tensors lie on several ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from trustformers_pl.gathering import whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch.strategies import Strategy
    from torch import nn


def weights_as_shards(module: nn.Module, shards: Mapping[int, Tensor]) -> dict[str, Any]:
    """A module's `state_dict`, with shards in place of the whole weights that they are of.

    Args:
        module: With plain parameters or DTensors.
        shards: By the `id` of a parameter its shard, with the same values.
    """
    state: dict[str, Any] = module.state_dict()
    if not shards:
        return state
    # By memory: a `state_dict` holds detached tensors, under names that the module may have chosen itself.
    whole_ones = [p for p in module.parameters() if id(p) in shards and p.numel() and not isinstance(p, DTensor)]
    of_memory = {p.data_ptr(): shards[id(p)] for p in whole_ones}
    for name, value in state.items():
        plain = isinstance(value, Tensor) and not isinstance(value, DTensor) and value.numel()
        shard = of_memory.get(value.data_ptr()) if plain else None
        if shard is not None and shard.shape == value.shape:
            state[name] = shard.detach()
    return state


def save_from_all_ranks(strategy: Strategy, checkpoint: dict[str, Any], path: Any, storage_options: Any) -> None:
    """Save a checkpoint: each rank its part, or rank 0 all of it, if the CheckpointIO knows no parts. Collective.

    Args:
        strategy: Whose CheckpointIO writes.
        checkpoint: What this rank's Trainer has dumped; DTensors are shared with the other ranks.
        path: Where to.
        storage_options: As given to the Trainer.
    """
    io = strategy.checkpoint_io
    if getattr(io, "writes_parts", False):
        io.save_checkpoint(checkpoint, path, storage_options=storage_options)
        return
    checkpoint = whole(checkpoint, "checkpoint")
    if strategy.is_global_zero:
        io.save_checkpoint(checkpoint, path, storage_options=storage_options)
