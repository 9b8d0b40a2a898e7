"""One parameter and the shard of it that this rank's optimizer trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class ShardMesh:
    """The ranks that share weights, and those that have copies of the same shards.

    Attributes:
        mesh: Of one dimension, or of two: copies, shards.
        ranks: That share one copy.
        rank: This one, among them.
        group: Theirs.
        copies: How many ranks have the same shard.
        group_of_copies: Theirs; None where there is one.
    """

    mesh: DeviceMesh
    ranks: int
    rank: int
    group: ProcessGroup
    copies: int = 1
    group_of_copies: ProcessGroup | None = None

    @classmethod
    def of(cls, mesh: DeviceMesh) -> ShardMesh:
        """Read a mesh whose last dimension shards."""
        last = mesh.ndim - 1
        own = cls(mesh, mesh.size(last), mesh.get_local_rank(last), mesh.get_group(last))
        if mesh.ndim == 1:
            return own
        return cls(own.mesh, own.ranks, own.rank, own.group, mesh.size(0), mesh.get_group(0))

    @property
    def groups(self) -> list[ProcessGroup]:
        """All groups, that of the copies first."""
        return [self.group] if self.group_of_copies is None else [self.group_of_copies, self.group]

    def placements(self, *, sharded: bool) -> list[Any]:
        """Of a DTensor: copies along the first of two dimensions, and pieces, or copies, along the last."""
        return [Replicate()] * (self.mesh.ndim - 1) + [Shard(0) if sharded else Replicate()]


@dataclass
class ParameterShard:
    """A whole parameter, (d, ...), and this rank's rows of it; all of it where it has no dimension.

    Rows are shared out as torch's `chunk` does: all ranks but the last ones have ceil(d / ranks).

    Attributes:
        parameter: The module's.
        shard: A parameter of its own, a DTensor of the whole's shape: what the optimizer trains.
        ranks: That share the parameter.
        rank: This one.
        on_host: Whether the shard has memory of its own, on the host.
        ready: Whether its gradient is complete, in the backward pass that runs.
    """

    parameter: nn.Parameter
    shard: nn.Parameter
    ranks: int
    rank: int
    on_host: bool = False
    ready: bool = False
    _handle: Any = None

    @classmethod
    def of(cls, parameter: nn.Parameter, mesh: ShardMesh, *, on_host: bool = False) -> ParameterShard:
        """Cut a parameter.

        Args:
            parameter: Whole, equal on all ranks.
            mesh: Whose ranks share it.
            on_host: Give the shard memory of its own, on the host.
        """
        whole = parameter.detach()
        own = chunk_of(whole, mesh.ranks, mesh.rank)
        if on_host:
            own = torch.empty_like(own, device="cpu", pin_memory=whole.is_cuda).copy_(own)
        placements = mesh.placements(sharded=whole.ndim > 0)
        laid_out = DTensor.from_local(
            own, mesh.mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
        )
        shard = nn.Parameter(laid_out, requires_grad=parameter.requires_grad)
        return cls(parameter, shard, mesh.ranks, mesh.rank, on_host)

    @property
    def local(self) -> Tensor:
        """The optimizer's rows, (rows, ...)."""
        found: Tensor = self.shard._local_tensor  # type: ignore[attr-defined]
        return found

    @property
    def rows(self) -> Tensor:
        """The parameter's rows that this rank has the shard of, in the parameter's own memory."""
        return chunk_of(self.parameter.detach(), self.ranks, self.rank)

    @property
    def padded(self) -> int:
        """Elements of the largest shard that a rank has."""
        whole = self.parameter
        return (
            whole.numel()
            if whole.ndim == 0
            else -(-whole.shape[0] // self.ranks) * whole[0].numel()
            if len(whole)
            else 0
        )

    def watch(self, ready: Callable[[ParameterShard], None]) -> None:
        """Call a function whenever the parameter's gradient is complete."""
        trained, self.parameter.requires_grad = self.parameter.requires_grad, True  # torch takes no other
        self._handle = self.parameter.register_post_accumulate_grad_hook(lambda _: ready(self))  # type: ignore[no-untyped-call]
        self.parameter.requires_grad = trained

    def give(self, gradient: Tensor, *, add: bool) -> None:
        """Set the shard's gradient to this rank's rows, (rows, ...), or add them to it."""
        if self.on_host:
            gradient = gradient.to("cpu")
        if add and self.shard.grad is not None:
            self.shard.grad._local_tensor.add_(gradient)  # type: ignore[attr-defined]
            return
        spec: Any = self.shard
        self.shard.grad = DTensor.from_local(
            gradient,
            spec.device_mesh,
            spec.placements,
            run_check=False,
            shape=self.shard.shape,
            stride=self.shard.stride(),
        )

    def refresh(self) -> None:
        """Take the parameter's values over, where the shard has memory of its own."""
        if self.on_host:
            self.local.copy_(self.rows)

    def release(self) -> None:
        """Watch no more."""
        if self._handle is not None:
            self._handle.remove()


def chunk_of(tensor: Tensor, ranks: int, rank: int) -> Tensor:
    """A rank's rows of a tensor, (d, ...), as a view; none for ranks beyond the last row; all of a scalar."""
    if tensor.ndim == 0:
        return tensor
    each = -(-tensor.shape[0] // ranks)
    start = min(rank * each, tensor.shape[0])
    return tensor.narrow(0, start, min(each, tensor.shape[0] - start))
