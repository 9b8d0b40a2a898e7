"""Which share of each batch is this process's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed as dist

if TYPE_CHECKING:
    from lightning import Trainer
    from torch import Tensor


def process_ranks() -> tuple[int, int]:
    """(rank, ranks) of torch's default process group; (0, 1) without one."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def data_ranks(trainer: Trainer | None) -> tuple[int, int]:
    """(rank, ranks) among the processes that read different data.

    Processes that hold parts of one model read the same: a strategy says so by `data_rank` and `data_ranks`, or in
    Lightning's way, by `distributed_sampler_kwargs`.

    Args:
        trainer: Whose strategy is asked; without one, the process group is.
    """
    if trainer is None:
        return process_ranks()
    strategy: Any = trainer.strategy
    if hasattr(strategy, "data_ranks"):
        return strategy.data_rank, strategy.data_ranks
    told = trainer.distributed_sampler_kwargs
    return (trainer.global_rank, trainer.world_size) if told is None else (told["rank"], told["num_replicas"])


def contiguous_share(indices: Tensor, rank: int, ranks: int) -> Tensor:
    """The `rank`-th of `ranks` contiguous slices of a global batch: the default of the SHARD phase.

    The first ranks' shares are larger by one where the division leaves a rest. Where there are fewer samples than
    ranks, those without any repeat the batch's own from the start, as `DistributedSampler` pads: every rank must have
    something to do, or the others wait for it.

    Args:
        indices: (B,) int64, B > 0.
        rank: From 0.
        ranks: How many share the batch.

    Returns:
        (B / ranks, rounded up or down, but not to 0) int64.
    """
    if len(indices) < ranks:
        return indices[rank % len(indices)].reshape(1)
    return indices.tensor_split(ranks)[rank]
