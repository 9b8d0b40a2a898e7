"""Weights gathered from the shards that the optimizers have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from trustformers_pl.parallel.buckets import split
from trustformers_pl.parallel.collectives import gather
from trustformers_pl.parallel.parameter_shard import chunk_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trustformers_pl.parallel.parameter_shard import ParameterShard, ShardMesh

IN_PLACE = 2**20  # bytes


class Publication:
    """Brings each rank's shards to all ranks that share the weights.

    Args:
        parts: The parameters with their shards.
        limit: Bytes of weights that are gathered at once.
        mesh: Whose ranks share them.
    """

    def __init__(self, parts: Sequence[ParameterShard], limit: int, mesh: ShardMesh) -> None:
        self._parts = parts
        self._mesh = mesh
        with_rows = [part for part in parts if part.parameter.ndim]
        self._in_place = [part for part in with_rows if is_worth_it(part.parameter, mesh.ranks)]
        alone = {id(part) for part in self._in_place}
        self._groups = split([part for part in with_rows if id(part) not in alone], limit)

    @torch.no_grad()
    def gather(self) -> None:
        """Make all weights whole. Collective."""
        for part in self._parts:
            if part.on_host:
                part.rows.copy_(part.local)
        if self._mesh.ranks == 1:
            return
        for part in self._in_place:
            gather(part.parameter.detach().view(self._mesh.ranks, -1), part.rows.view(-1), self._mesh.group)
        for group in self._groups:
            self._gather(group)

    def _gather(self, group: list[ParameterShard]) -> None:
        ranks, first = self._mesh.ranks, group[0].parameter
        of_all = torch.empty(ranks, sum(part.padded for part in group), dtype=first.dtype, device=first.device)
        own, start = of_all[self._mesh.rank], 0
        for part in group:
            rows = part.rows
            own[start : start + rows.numel()].copy_(rows.reshape(-1))
            start += part.padded
        gather(of_all, own, self._mesh.group)
        start = 0
        for part in group:
            take(part.parameter.detach(), of_all[:, start : start + part.padded], self._mesh)
            start += part.padded


def is_worth_it(parameter: Tensor, ranks: int) -> bool:
    """Whether a parameter, or its gradient, lies as it is sent, and is worth a message of its own."""
    whole_rows = parameter.ndim > 0 and parameter.shape[0] % ranks == 0 and parameter.is_contiguous()
    return whole_rows and parameter.nbytes >= IN_PLACE


def take(tensor: Tensor, columns: Tensor, mesh: ShardMesh) -> None:
    """Read a tensor, (d, ...), from (ranks, n): its chunk r from row r, for all ranks but this one."""
    for rank in range(mesh.ranks):
        if rank != mesh.rank:
            chunk = chunk_of(tensor, mesh.ranks, rank)
            chunk.copy_(columns[rank, : chunk.numel()].view(chunk.shape))
