"""Tensors of which each rank holds a part: what can be said of the whole from the parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from trustformers_pl.gathering import place_like

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh

    from trustformers_pl.pieces import Pieces


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a DTensor, sharing its memory; any other tensor as it is."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def are_sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether one of some tensors is a DTensor."""
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def sharding_of(tensor: Tensor) -> tuple[DeviceMesh, tuple[int, ...]] | None:
    """The mesh of a tensor and the mesh's dimensions over which its elements are spread; None if every rank has all."""
    if not isinstance(tensor, DTensor):
        return None
    dimensions = tuple(i for i, placement in enumerate(tensor.placements) if placement.is_shard())
    return (tensor.device_mesh, dimensions) if dimensions else None


def by_sharding(tensors: Iterable[Tensor]) -> dict[Any, list[Tensor]]:
    """Tensors of one sharding together: the answers of `sharding_of`, each with the parts that this rank has."""
    groups: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(sharding_of(tensor), []).append(local(tensor))
    return groups


def norm_of_shards(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of tensors as one vector, a float32 scalar (float64 for float64), equal on all ranks. Collective.

    The squares of this rank's elements are summed, then those sums over the ranks: one number a mesh is sent.

    Args:
        tensors: Of any shapes; DTensors on any meshes, not waiting for a sum, and plain tensors, equal on all ranks.
    """
    total: Tensor | None = None
    with torch.no_grad():
        for sharding, parts in by_sharding(tensors).items():
            squares = _square_sum(parts)
            if sharding is not None:
                mesh, dimensions = sharding
                for dimension in dimensions:
                    dist.all_reduce(squares, group=mesh.get_group(dimension))
            total = squares if total is None else total + squares
    assert total is not None
    return total.sqrt()


def norms_of_shards(parts: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor:
    """The 2-norm of each of some tensors, (n,), of which each rank has a part. Collective: one sum a mesh.

    Args:
        parts: This rank's parts, plain tensors of at least float32.
        like: Tensors that lie as those do.
    """
    squares = torch.stack([torch.linalg.vector_norm(part) for part in parts]).square()
    groups: dict[Any, list[int]] = {}
    for index, tensor in enumerate(like):
        groups.setdefault(sharding_of(tensor), []).append(index)
    for sharding, indices in groups.items():
        if sharding is None:
            continue
        own = squares[indices]
        for dimension in sharding[1]:
            dist.all_reduce(own, group=sharding[0].get_group(dimension))
        squares[indices] = own
    return squares.sqrt()


def _square_sum(parts: list[Tensor]) -> Tensor:
    kind = torch.float64 if parts[0].dtype == torch.float64 else torch.float32
    filled = [part for part in parts if part.numel()]
    if not filled:
        return torch.zeros((), dtype=kind, device=parts[0].device)
    if all(part.dtype == kind for part in filled):
        norms = torch._foreach_norm(filled)
    else:  # in half precision a norm overflows at 65,504
        norms = tuple(torch.linalg.vector_norm(part, dtype=kind) for part in filled)
    return torch.stack(norms).square().sum()


def agree_on_any(flag: Tensor, tensors: Iterable[Tensor]) -> None:
    """Set a flag where any rank that has a part of some tensors has set it. Collective, in place.

    Args:
        flag: Scalar, 0 or 1.
        tensors: Whose meshes say which ranks are asked.
    """
    done: set[Any] = set()
    for tensor in tensors:
        sharding = sharding_of(tensor)
        if sharding is None or sharding in done:
            continue
        done.add(sharding)
        for dimension in sharding[1]:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=sharding[0].get_group(dimension))


def copy_into(weight: Tensor, value: Tensor | Pieces) -> None:
    """Give a weight the values of a tensor of the same shape, however each of the two is laid out. Collective.

    Args:
        weight: A plain tensor or a DTensor; changed in place.
        value: A plain tensor, equal on all ranks, a DTensor, or the pieces of a stored one.
    """
    with torch.no_grad():
        if not isinstance(value, DTensor):
            value = place_like(value, weight.detach())
        elif not isinstance(weight, DTensor):
            value = value.full_tensor()
        weight.detach().copy_(value)


def trained(module: nn.Module) -> dict[str, Tensor]:
    """What the optimizers of a run train, by the names of its parameters: each itself, or this rank's shard of it.

    A strategy that gives optimizers shards of whole weights has them in a mapping `shards`, by the parameters' `id`.

    Args:
        module: A LightningModule, with or without a Trainer.

    Returns:
        Name -> the tensor that has the gradient when the optimizer steps.
    """
    trainer: Any = getattr(module, "_trainer", None)
    shards = {} if trainer is None else getattr(trainer.strategy, "shards", {})
    return {name: shards.get(id(parameter), parameter) for name, parameter in module.named_parameters()}
