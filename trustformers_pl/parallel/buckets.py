"""Gradients reduced to shards, some at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from trustformers_pl.errors import RefusedError
from trustformers_pl.parallel.collectives import reduced
from trustformers_pl.parallel.parameter_shard import chunk_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trustformers_pl.parallel.parameter_shard import ParameterShard, ShardMesh


@dataclass(frozen=True)
class Reduction:
    """How gradients are added up.

    Attributes:
        overlap: While the backward pass goes on.
        scatter: Each rank gets its shard alone.
        dtype: In this type; None: in the gradients' own.
    """

    overlap: bool = True
    scatter: bool = True
    dtype: torch.dtype | None = None


@dataclass
class Bucket:
    """Parameters whose gradients are reduced at once.

    Each rank lays its gradients out as (ranks, columns): row r is what rank r has the shards of, one parameter after
    the other, each padded to the largest shard. The last columns tell whether this rank has a gradient of each
    parameter, so that one which no rank has stays None, as in one process.
    """

    parts: list[ParameterShard]
    mesh: ShardMesh
    reduction: Reduction
    launched: bool = False
    idle: bool = False
    _work: Any = None
    _sum: Tensor | None = None
    _missing: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """A backward pass begins."""
        self.launched = False
        for part in self.parts:
            part.ready = False
        self.idle = not any(part.parameter.requires_grad for part in self.parts)

    @property
    def complete(self) -> bool:
        """Whether all gradients are there."""
        return all(part.ready or not part.parameter.requires_grad for part in self.parts)

    def launch(self, *, keep_whole: bool) -> None:
        """Send what this rank has; of what it lacks, zeros.

        Raises:
            RefusedError: Whole gradients were reduced already, and would be added up twice.
        """
        self.launched = True
        if keep_whole:
            self.refuse_reduced()
        rows = self._rows()
        if not keep_whole:
            for part in self.parts:
                part.parameter.grad = None
        self._sum, self._work = reduced(rows, self.mesh.group, scatter=self.reduction.scatter)
        if not self.reduction.overlap:
            self._work.wait()

    def refuse_reduced(self) -> None:
        """Refuse to reduce whole gradients twice.

        Raises:
            RefusedError: They were reduced since the last step.
        """
        if any(part.shard.grad is not None for part in self.parts):
            raise RefusedError(
                "zero: stage 1 has synchronised these gradients already, and no step or zero_grad came since; let "
                "backward passes before the last one of a step run without synchronisation, or use stage 2"
            )

    def _rows(self) -> Tensor:
        """(ranks, columns): this rank's gradients, by whose shards they are of."""
        gradients = [part.parameter.grad for part in self.parts]
        self._missing = [i for i, gradient in enumerate(gradients) if gradient is None]
        given = [
            torch.zeros_like(part.parameter) if gradient is None else gradient
            for part, gradient in zip(self.parts, gradients, strict=True)
        ]
        ranks, dtype = self.mesh.ranks, self.reduction.dtype or given[0].dtype
        columns = sum(part.padded for part in self.parts) + len(self.parts)
        rows = torch.empty(ranks, columns, dtype=dtype, device=given[0].device)
        self._lay_out(given, rows)
        there = torch.ones(len(self.parts), dtype=dtype)
        there[self._missing] = 0
        rows[:, -len(self.parts) :] = there.to(rows.device)
        return rows

    def _lay_out(self, gradients: Sequence[Tensor], rows: Tensor) -> None:
        start = 0
        for part, gradient in zip(self.parts, gradients, strict=True):
            columns = rows[:, start : start + part.padded]
            start += part.padded
            lay_out(gradient, columns, self.mesh.ranks)

    def finish(self, *, keep_whole: bool) -> None:
        """Wait for the sums, and leave their means on the shards."""
        assert self._sum is not None
        self._work.wait()
        own = self._sum
        if not keep_whole and own.untyped_storage().nbytes() > own.nbytes:
            own = own.clone()  # it is a row of all, which nobody else needs any more
        if self.mesh.group_of_copies is not None:
            dist.all_reduce(own, group=self.mesh.group_of_copies)
        there = own[-len(self.parts) :].tolist() if self._missing else []
        own /= self.mesh.ranks * self.mesh.copies
        start = 0
        for i, part in enumerate(self.parts):
            flat = own[start : start + part.local.numel()]
            start += part.padded
            if i not in self._missing or there[i]:
                self._give(part, flat, keep_whole=keep_whole)
        self._sum = self._work = None

    def _give(self, part: ParameterShard, flat: Tensor, *, keep_whole: bool) -> None:
        mean = flat.view(part.local.shape).to(part.parameter.dtype)
        if not keep_whole:
            part.give(mean, add=True)
            return
        whole = part.parameter
        if whole.grad is None:
            whole.grad = torch.zeros_like(whole)
        rows = chunk_of(whole.grad, part.ranks, part.rank)
        part.give(rows.copy_(mean), add=False)


def lay_out(tensor: Tensor, columns: Tensor, ranks: int) -> None:
    """Write a tensor, (d, ...), into (ranks, n), its chunk r into row r; what is behind a short chunk is zero."""
    if tensor.ndim == 0:
        columns.copy_(tensor)
    elif tensor.shape[0] % ranks == 0:
        columns.view(ranks, -1).copy_(tensor.reshape(ranks, -1))
    else:
        columns.zero_()
        for rank in range(ranks):
            chunk = chunk_of(tensor, ranks, rank)
            columns[rank, : chunk.numel()].copy_(chunk.reshape(-1))


def in_buckets(parts: Sequence[ParameterShard], limit: int, mesh: ShardMesh, reduction: Reduction) -> list[Bucket]:
    """Parameters of one type and device together, up to a number of bytes, the last ones first.

    Gradients of a backward pass come in about this order.
    """
    return [Bucket(group, mesh, reduction) for group in split(list(reversed(parts)), limit)]


def split(parts: Sequence[ParameterShard], limit: int) -> list[list[ParameterShard]]:
    """Runs of parameters of one type and device, each of no more than so many bytes, or a single one."""
    groups: list[list[ParameterShard]] = []
    size = 0
    for part in parts:
        parameter = part.parameter
        first = groups[-1][0].parameter if groups else None
        same = first is not None and (first.dtype, first.device) == (parameter.dtype, parameter.device)
        if not same or size + parameter.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += parameter.nbytes
    return groups
