"""Weights gathered from the shards that the optimizers have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from trustformers_pl.parallel.buckets import split
from trustformers_pl.parallel.collectives import all_gather
from trustformers_pl.parallel.parameter_shard import chunk_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trustformers_pl.parallel.parameter_shard import ParameterShard, ShardMesh


class Publication:
    """Brings each rank's shards to all ranks that share the weights.

    Args:
        parts: The parameters with their shards.
        limit: Bytes of weights that are gathered at once.
        mesh: Whose ranks share them.
    """

    def __init__(self, parts: Sequence[ParameterShard], limit: int, mesh: ShardMesh) -> None:
        self._parts = parts
        self._groups = split([part for part in parts if part.parameter.ndim], limit)
        self._mesh = mesh

    @torch.no_grad()
    def gather(self) -> None:
        """Make all weights whole. Collective."""
        for part in self._parts:
            if part.on_host:
                part.rows.copy_(part.local)
        if self._mesh.ranks == 1:
            return
        for group in self._groups:
            self._gather(group)

    def _gather(self, group: list[ParameterShard]) -> None:
        ranks = self._mesh.ranks
        first = group[0].parameter
        if len(group) == 1 and first.is_contiguous() and first.shape[0] % ranks == 0:  # it lies as it is gathered
            whole = first.detach().view(-1)
            all_gather(whole, group[0].rows.reshape(-1).clone(), group=self._mesh.group)
            return
        columns = sum(part.padded for part in group)
        own = torch.zeros(columns, dtype=first.dtype, device=first.device)
        start = 0
        for part in group:
            rows = part.rows
            own[start : start + rows.numel()].copy_(rows.reshape(-1))
            start += part.padded
        of_all = own.new_empty(ranks, columns)
        all_gather(of_all.view(-1), own, group=self._mesh.group)
        start = 0
        for part in group:
            take(part.parameter.detach(), of_all[:, start : start + part.padded], ranks)
            start += part.padded


def take(tensor: Tensor, columns: Tensor, ranks: int) -> None:
    """Read a tensor, (d, ...), from (ranks, n), its chunk r from row r."""
    if tensor.shape[0] % ranks == 0 and tensor.is_contiguous():
        tensor.view(ranks, -1).copy_(columns)
        return
    for rank in range(ranks):
        chunk = chunk_of(tensor, ranks, rank)
        chunk.copy_(columns[rank, : chunk.numel()].view(chunk.shape))
