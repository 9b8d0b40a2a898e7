"""Values of several ranks brought together on rank zero, and tensors placed on the ranks again."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from trustformers_pl.errors import CheckpointError
from trustformers_pl.pieces import Pieces, Region, region_of

if TYPE_CHECKING:
    from collections.abc import Callable

_MAPPINGS = (dict, OrderedDict)
_SEQUENCES = (list, tuple)


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def map_tensors(function: Callable[[Tensor, str], Any], tree: Any, where: str) -> Any:
    """Replace the tensors in nested dicts, lists and tuples; everything else stays as it is.

    Args:
        function: Given a tensor of any shape and its path.
        tree: Where to look for tensors.
        where: The path of `tree`.

    Returns:
        A tree of the same structure.
    """
    if isinstance(tree, Tensor):
        return function(tree, where)
    if type(tree) in _MAPPINGS:
        made = type(tree)((key, map_tensors(function, item, f"{where}.{key}")) for key, item in tree.items())
        if hasattr(tree, "_metadata"):  # the versions in a module's state_dict
            made._metadata = tree._metadata
        return made
    if type(tree) in _SEQUENCES:
        return type(tree)(map_tensors(function, item, f"{where}.{i}") for i, item in enumerate(tree))
    return tree


def whole(tree: Any, where: str) -> Any:
    """Gather every DTensor in a tree, one after the other, in the tree's order.

    Collective where there is a DTensor: all ranks must call it with the same structure.

    Args:
        tree: Nested dicts, lists and tuples; DTensors of any shape and placement.
        where: Its path.

    Returns:
        On rank zero the tree with plain tensors of the global shapes, those that were gathered in host memory; on other
        ranks the same without its tensors, so that only rank zero needs room for them.
    """
    rank, _ = rank_and_world_size()

    def gathered(tensor: Tensor, where: str) -> Tensor | None:
        del where
        is_sharded = isinstance(tensor, DTensor)
        full = tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor
        if rank:
            return None
        return full.cpu() if is_sharded else full

    return map_tensors(gathered, tree, where)


def first_of_ranks(value: str | None) -> str | None:
    """What the first rank with something to say says; None where none has. Collective.

    Args:
        value: Of this rank.
    """
    if rank_and_world_size()[1] == 1:
        return value
    values: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return next((said for said in values if said is not None), None)


def local(tree: Any, where: str) -> Any:
    """Bring a tree that belongs to one rank into host memory.

    Args:
        tree: Nested dicts, lists and tuples; tensors of any shape.
        where: Its path.

    Raises:
        CheckpointError: There is a DTensor in it, which belongs to all ranks.
    """

    def on_host(tensor: Tensor, where: str) -> Tensor:
        if isinstance(tensor, DTensor):
            raise CheckpointError(f"{where}: a DTensor belongs to all ranks; give it in a state with Scope.SHARDED")
        return tensor.detach().cpu()

    return map_tensors(on_host, tree, where)


def on_rank_zero(value: dict[Any, Any]) -> list[dict[Any, Any]]:
    """Bring one value of each rank to rank zero. Collective.

    Args:
        value: Of this rank; tensors in host memory.

    Returns:
        The values in the order of ranks, complete on rank zero; elsewhere only this rank's.

    Raises:
        CheckpointError: The value cannot be sent to another process.
    """
    rank, world_size = rank_and_world_size()
    if world_size == 1:
        return [value]
    values: list[Any] | None = [None] * world_size if rank == 0 else None
    try:
        dist.gather_object(value, values)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        keys = ", ".join(str(key) for key in value)
        cause = str(error).splitlines()[0]
        raise CheckpointError(
            f"{keys}: this state cannot be stored ({cause}); keep tensors, numbers, strings, lists and dicts in it"
        ) from error
    return values or [value]


def place_like(value: Tensor | Pieces, like: Tensor) -> Tensor:
    """Lay out a stored tensor as another one is: for `load_state` of a part with sharded state.

    Each rank takes its own region of what is stored, so that nothing is sent, and of files only that is read.

    Args:
        value: Whole, or in pieces; of the global shape of `like`, equal on all ranks.
        like: A DTensor with any mesh and placements, or a plain tensor.

    Returns:
        A tensor with the mesh and placements, or the device, of `like`, and the dtype of `value`. It does not share
        memory with `value`.

    Raises:
        CheckpointError: The shapes differ.
    """
    if value.shape != like.shape:
        raise CheckpointError(
            f"stored with shape {tuple(value.shape)}, but {tuple(like.shape)} is needed; resume with the same model"
        )
    if isinstance(like, DTensor):
        return _placed(value, like)
    if isinstance(value, Pieces):
        return value.whole().to(like.device)
    return value.detach().to(like.device, copy=True)


def _placed(value: Tensor | Pieces, like: DTensor) -> Tensor:
    if isinstance(value, DTensor):
        own: DTensor = value.detach().clone()  # type: ignore[assignment]
        return own.redistribute(like.device_mesh, like.placements)
    try:
        region = region_of(like)
    except CheckpointError:  # a layout that is not in boxes: torch cuts the whole
        whole = value.whole() if isinstance(value, Pieces) else value.detach().clone()
        on_device = whole.to(like.device, memory_format=torch.contiguous_format)
        return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)
    stride = torch.empty(like.shape, device="meta").stride()
    return DTensor.from_local(
        _own(value, region, like.device), like.device_mesh, like.placements, shape=like.shape, stride=stride
    )


def _own(value: Tensor | Pieces, region: Region, device: torch.device) -> Tensor:
    """A region of a tensor in memory of its own."""
    if isinstance(value, Pieces):
        return value.region(region.offset, region.shape).to(device)
    return value.detach()[region.slices()].to(device, memory_format=torch.contiguous_format, copy=True)
