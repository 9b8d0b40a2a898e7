"""A value goes into the tensor that now stands in its place: as a whole, or the part of it that lies on this rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import _get_shard_size_and_offsets
from torch.distributed.tensor.placement_types import _StridedShard

from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Source(Protocol):
    """Where a value is read from, by parts."""

    def read(self, region: Mapping[int, Tensor]) -> Tensor:
        """A part of the value.

        Args:
            region: Dimension -> (N,) int64, ascending: the indices in this dimension. All, for dimensions not in it.

        Returns:
            The part, on the CPU.
        """


class Whole:
    """A value that is in memory."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def read(self, region: Mapping[int, Tensor]) -> Tensor:
        """A view where the indices follow each other, a copy otherwise."""
        return part(self.value, region)


def part(value: Tensor, region: Mapping[int, Tensor]) -> Tensor:
    """The elements of a tensor at some indices in some dimensions."""
    for dim, index in region.items():
        value = value.narrow(dim, start_of(index), len(index)) if is_range(index) else value.index_select(dim, index)
    return value


def is_range(index: Tensor) -> bool:
    """Whether ascending indices leave none out."""
    return len(index) == 0 or int(index[-1] - index[0]) == len(index) - 1


def start_of(index: Tensor) -> int:
    """The first index; 0 where there is none."""
    return int(index[0]) if len(index) else 0


def region_of(tensor: Tensor) -> dict[int, Tensor]:
    """Which part of its global value a tensor's memory on this rank holds.

    Raises:
        RefusedError: Ranks hold summands of it.
    """
    if not isinstance(tensor, DTensor):
        return {}
    mesh, region = tensor.device_mesh, dict[int, Tensor]()
    for mesh_dim, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate):
            continue
        if not isinstance(placement, (Shard, _StridedShard)):
            raise RefusedError(f"a tensor with the placement {placement} cannot be given a value")
        dim, size = placement.dim, tensor.shape[placement.dim]
        before = region.get(dim, torch.arange(size))
        length, index = _get_shard_size_and_offsets(
            len(before), mesh.size(mesh_dim), mesh.get_local_rank(mesh_dim), placement, before, size, False
        )
        region[dim] = before[:0] if index is None or length == 0 else index
    return region


def place(tensor: Tensor, source: Source, name: str) -> None:
    """Write a value into a tensor, cast to the tensor's dtype.

    Args:
        tensor: With memory; of a DTensor, this rank's.
        source: The value.
        name: Of the tensor, for messages.

    Raises:
        RefusedError: It is of another shape.
    """
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    value = source.read(region_of(tensor))
    refuse_other_shape(name, local, value)
    local.copy_(value)


def refuse_other_shape(name: str, tensor: Tensor, value: Tensor) -> None:
    """Refuse a value that does not fit."""
    if value.shape != tensor.shape:
        raise RefusedError(
            f"{name}: its shape is {tuple(tensor.shape)} now, and that of its value {tuple(value.shape)}; call "
            "note_values(module) after the module was changed and before its tensors are"
        )


def put_in_place_of(tensor: Tensor, value: Tensor, owner: nn.Module, name: str) -> None:
    """Let a tensor of the meta device be `value` from now on, for all who hold it; the value is not copied."""
    new = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
    new.__dict__.update(vars(tensor))
    try:
        torch.utils.swap_tensors(tensor, new)  # type: ignore[no-untyped-call]
    except RuntimeError:  # someone holds it weakly, as `nn.LSTM` does; then the module gets a new one
        setattr(owner, name, new)
