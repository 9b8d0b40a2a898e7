"""A large gradient that stays whole, reduced where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from trustformers_pl.parallel.buckets import Bucket
from trustformers_pl.parallel.parameter_shard import chunk_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trustformers_pl.parallel.parameter_shard import ParameterShard, ShardMesh


@dataclass
class WholeGradient(Bucket):
    """One parameter whose gradient is added up in its own memory: stage 1 where the backend sends all sums anyway.

    Nothing is copied, and so there is no room to tell whether each rank has a gradient: see `tell`.
    """

    lacking: bool = False
    _whole: Tensor | None = None

    @property
    def part(self) -> ParameterShard:
        """The parameter."""
        return self.parts[0]

    def launch(self, *, keep_whole: bool) -> None:
        """Send the gradient, or zeros.

        Raises:
            RefusedError: It was reduced already, and would be added up twice.
        """
        del keep_whole
        self.launched = True
        self.refuse_reduced()
        gradient = self.part.parameter.grad
        self.lacking = gradient is None
        self._whole = torch.zeros_like(self.part.parameter) if gradient is None else gradient.contiguous()
        self._work = dist.all_reduce(self._whole, group=self.mesh.group, async_op=True)
        if not self.reduction.overlap:
            self._work.wait()

    def finish(self, *, keep_whole: bool) -> None:
        """Wait for the sum, and leave this rank's mean on the shard, as a part of the whole."""
        del keep_whole
        assert self._whole is not None
        self._work.wait()
        whole, self._whole, self._work = self._whole, None, None
        if self.lacking:
            return
        rows = chunk_of(whole, self.part.ranks, self.part.rank)
        if self.mesh.group_of_copies is not None:
            dist.all_reduce(rows, group=self.mesh.group_of_copies)
        rows /= self.mesh.ranks * self.mesh.copies
        self.part.parameter.grad = whole
        self.part.give(rows, add=False)


def tell(buckets: Sequence[Bucket], mesh: ShardMesh) -> None:
    """Let all ranks know which of the gradients some rank has: one that no rank has stays None. Collective.

    Args:
        buckets: Of one backward pass, the same on all ranks.
        mesh: Theirs.
    """
    found: list[Any] = [bucket for bucket in buckets if isinstance(bucket, WholeGradient) and bucket.launched]
    if not found:
        return
    there = torch.tensor([float(not bucket.lacking) for bucket in found], device=found[0].part.parameter.device)
    for group in mesh.groups:
        dist.all_reduce(there, op=dist.ReduceOp.MAX, group=group)
    for bucket, is_there in zip(found, there.tolist(), strict=True):
        bucket.lacking = not is_there
