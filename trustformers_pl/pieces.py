"""One tensor in pieces: which rank of a mesh holds which region of it, and pieces in files put together again."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.distributed.tensor.placement_types import Placement

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Region:
    """A box in a tensor.

    Attributes:
        offset: Where it begins, in each dimension.
        shape: Its size in each dimension.
    """

    offset: Shape
    shape: Shape

    @property
    def numel(self) -> int:
        """Elements in it."""
        return math.prod(self.shape)

    def slices(self) -> tuple[slice, ...]:
        """What to index the tensor with."""
        return tuple(slice(begin, begin + size) for begin, size in zip(self.offset, self.shape, strict=True))


@dataclass(frozen=True, eq=False)
class Pieces:
    """A tensor whose pieces lie in files, mapped into memory: what is not asked for is not read.

    Attributes:
        shape: Of the whole.
        dtype: Of the whole and of each piece.
        pieces: Where each piece begins in the whole, and the piece. They do not overlap.
    """

    shape: torch.Size
    dtype: torch.dtype
    pieces: Sequence[tuple[Shape, Tensor]]

    def whole(self) -> Tensor:
        """The tensor, in host memory of its own.

        Raises:
            CheckpointError: The pieces do not make up the whole.
        """
        return self.region((0,) * len(self.shape), self.shape)

    def region(self, offset: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Part of the tensor, in host memory of its own; of the files only the pages that it needs are read.

        Args:
            offset: Where the region begins, in each dimension.
            shape: Its size in each dimension.

        Raises:
            CheckpointError: The pieces do not make up the region.
        """
        wanted = Region(tuple(offset), tuple(shape))
        found = torch.empty(wanted.shape, dtype=self.dtype)
        count = 0
        for begin, piece in self.pieces:
            common = _common(wanted, Region(tuple(begin), tuple(piece.shape)))
            if common is not None:
                found[_inside(common, wanted.offset)].copy_(piece[_inside(common, begin)])
                count += common.numel
        if count != wanted.numel:
            raise CheckpointError(f"the pieces make up {count} of {wanted.numel} elements; use another checkpoint")
        return found


def _common(first: Region, second: Region) -> Region | None:
    starts = tuple(max(one, other) for one, other in zip(first.offset, second.offset, strict=True))
    ends = [
        min(a + m, b + n) for a, m, b, n in zip(first.offset, first.shape, second.offset, second.shape, strict=True)
    ]
    shape = tuple(end - start for start, end in zip(starts, ends, strict=True))
    return Region(starts, shape) if all(size > 0 for size in shape) else None


def _inside(region: Region, origin: Sequence[int]) -> tuple[slice, ...]:
    offset = tuple(begin - zero for begin, zero in zip(region.offset, origin, strict=True))
    return Region(offset, region.shape).slices()


def region_of(tensor: DTensor) -> Region:
    """Which region of a DTensor this rank holds; no communication.

    Args:
        tensor: On any mesh that this rank is part of; sharded and replicated in any way, evenly or not.

    Returns:
        The region; empty where this rank holds nothing.

    Raises:
        CheckpointError: The values are not laid out in boxes: pending sums (`Partial`), or a nested sharding of one
            dimension that leaves a rank with several stretches of it. Or the rank is no part of the mesh.
    """
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        raise CheckpointError("this rank is no part of the tensor's mesh")
    mesh = tuple(tensor.device_mesh.shape)
    return _region(tuple(tensor.shape), mesh, tuple(tensor.placements), tuple(coordinate))


def owners(tensor: DTensor) -> list[tuple[int, Region]]:
    """Which rank writes which region of a DTensor, equal on all ranks and without communication.

    Of the ranks that hold equal values, because the tensor is replicated along a dimension of the mesh, the first
    writes. Ranks that hold nothing do not appear.

    Raises:
        CheckpointError: As `region_of`.
    """
    mesh = tensor.device_mesh
    found = _owned(tuple(tensor.shape), tuple(mesh.shape), tuple(tensor.placements))
    return [(int(mesh.mesh[coordinate]), region) for coordinate, region in found]


@functools.lru_cache(4096)  # many tensors have one shape, and every save asks again
def _owned(shape: Shape, mesh: Shape, placements: tuple[Placement, ...]) -> tuple[tuple[Shape, Region], ...]:
    along = [
        range(1 if isinstance(placement, Replicate) else size) for size, placement in zip(mesh, placements, strict=True)
    ]
    found = ((at, _region(shape, mesh, placements, at)) for at in itertools.product(*along))
    return tuple((at, region) for at, region in found if region.numel)


@functools.lru_cache(4096)
def _region(shape: Shape, mesh: Shape, placements: tuple[Placement, ...], coordinate: Shape) -> Region:
    if other := next((one for one in placements if not isinstance(one, Shard | _StridedShard | Replicate)), None):
        raise CheckpointError(f"a DTensor with the placement {other} is in no regions of its own; redistribute it")
    stretches = [range(size) for size in shape]
    strided = {
        one.dim: _positions(shape[one.dim], mesh, placements, coordinate, one.dim)
        for one in placements
        if isinstance(one, _StridedShard)
    }
    for size, placement, place in zip(mesh, placements, coordinate, strict=True):
        if isinstance(placement, Shard) and placement.dim not in strided:
            stretch = stretches[placement.dim]
            count, begin = Shard.local_shard_size_and_offset(len(stretch), size, place)
            stretches[placement.dim] = stretch[begin : begin + count]
    for dim, stretch in strided.items():
        stretches[dim] = stretch
    return Region(tuple(one.start for one in stretches), tuple(len(one) for one in stretches))


def _positions(size: int, mesh: Shape, placements: tuple[Placement, ...], coordinate: Shape, dim: int) -> range:
    """The stretch of a dimension that is sharded by FSDP over tensor parallelism: the inner one cuts first."""
    found = torch.arange(size)
    for count, placement, place in zip(mesh, placements, coordinate, strict=True):
        if isinstance(placement, _StridedShard) and placement.dim == dim:
            chunks = found.chunk(int(placement.split_factor))
            found = torch.cat([_chunk(chunk, count, place) for chunk in chunks])
        elif isinstance(placement, Shard) and placement.dim == dim:
            found = _chunk(found, count, place)
    if not len(found):
        return range(size, size)
    first, last = int(found[0]), int(found[-1])
    if last - first + 1 != len(found):
        raise CheckpointError(
            f"a DTensor with the placements {placements} has ranks with several stretches of one "
            "dimension; make the size a multiple of the ranks"
        )
    return range(first, last + 1)


def _chunk(values: Tensor, count: int, place: int) -> Tensor:
    size, begin = Shard.local_shard_size_and_offset(len(values), count, place)
    return values[begin : begin + size]
