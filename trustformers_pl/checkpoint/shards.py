"""The tensors of a state that lie on several ranks: their names, and which rank writes which piece."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor

from trustformers_pl.checkpoint.leaves import tagged
from trustformers_pl.checkpoint.tensorfile import DTYPES
from trustformers_pl.checkpoint.unstorable import refusal
from trustformers_pl.errors import CheckpointError
from trustformers_pl.gathering import rank_and_world_size
from trustformers_pl.pieces import owners, region_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from torch import Tensor

    from trustformers_pl.pieces import Region

DEPTH = 200  # deeper trees contain themselves or would exhaust the recursion of JSON's reader
Leaf = tuple[str, DTensor]
_LOOKED_INTO = (DTensor, dict, argparse.Namespace, list, tuple, set, frozenset)


def sharded_leaves(tree: object, where: str = "") -> list[Leaf]:
    """The DTensors in a state with their paths, in its order: on every rank the same ones, if all have the same state.

    Args:
        tree: What `encode` takes.
        where: The path of `tree`.

    Raises:
        CheckpointError: It is nested too deep.
    """
    found: list[Leaf] = []
    _find(tree, where, 0, found)
    return found


def _find(x: object, where: str, depth: int, found: list[Leaf]) -> None:
    if isinstance(x, DTensor):
        found.append((where, x))
    for key, item in _items(x):
        if depth > DEPTH:
            raise too_deep(where)
        if isinstance(item, _LOOKED_INTO):  # most are not, and training waits
            _find(item, f"{where}.{key}" if where else str(key), depth + 1, found)


def _items(x: object) -> Iterable[tuple[Any, object]]:
    if isinstance(x, dict):
        return x.items()
    if isinstance(x, argparse.Namespace):
        return vars(x).items()
    return enumerate(x) if isinstance(x, list | tuple | set | frozenset) else ()


def too_deep(where: str) -> CheckpointError:
    """The refusal of a state that is nested more than `DEPTH` deep."""
    return refusal(where[:80] + "...", f"a state nested more than {DEPTH} deep", "does it contain itself?")


def free_name(where: str, taken: Container[str]) -> str:
    """The name of a tensor in a safetensors file, by its path in the state."""
    # A name has to be valid UTF-8, and "__metadata__" means something else in safetensors.
    stem = where.encode("utf-8", "replace").decode() or "tensor"
    name, count = stem, 1
    while name in taken or name == "__metadata__":
        count += 1
        name = f"{stem}#{count}"
    return name


@dataclass(frozen=True)
class Sharded:
    """One tensor whose pieces lie on several ranks.

    Attributes:
        shape: Of the whole.
        dtype: Its name, as torch has it: `bfloat16`.
        parts: The rank that writes each piece, and where it belongs.
    """

    shape: tuple[int, ...]
    dtype: str
    parts: Sequence[tuple[int, Region]]


class Shards:
    """Names for the DTensors of a state, and the pieces that this rank writes.

    Attributes:
        described: Each tensor by its name; one that occurs twice has one name.
        own: This rank's pieces by the same names: detached, contiguous, on their device, sharing the state's memory.

    Args:
        leaves: From `sharded_leaves`; they have to live as long as this object is asked for names.

    Raises:
        CheckpointError: One of them cannot be stored.
    """

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self.described: dict[str, Sharded] = {}
        self.own: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        self._stored: dict[tuple[Any, ...], str] = {}
        for where, tensor in leaves:
            self._names[id(tensor)] = self._name(where, tensor)

    def node(self, tensor: DTensor) -> Any:
        """The JSON of a DTensor that is one of these."""
        name = self._names[id(tensor)]
        told = self.described[name]
        parts = [[rank, list(region.offset), list(region.shape)] for rank, region in told.parts]
        return tagged("Sharded", name, shape=list(told.shape), dtype=told.dtype, parts=parts)

    def ranks(self) -> set[int]:
        """Who writes a piece."""
        return {rank for told in self.described.values() for rank, _ in told.parts}

    def digest_of(self, rank: int) -> str:
        """A digest of what a rank writes: that rank and rank 0, which writes the tree, must come to the same one."""
        parts = [
            (name, told.dtype, region.offset, region.shape)
            for name, told in self.described.items()
            for writer, region in told.parts
            if writer == rank
        ]
        return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()

    def _name(self, where: str, tensor: DTensor) -> str:
        if tensor.is_meta:
            raise refusal(where, "a DTensor on the meta device", "make it real first")
        if tensor.dtype not in DTYPES.values():
            raise refusal(where, f"a tensor of {tensor.dtype}", "safetensors has no such dtype; convert it")
        with torch.no_grad():
            local = tensor.to_local()
        key = (_memory(local), tensor.shape, tensor.placements, tensor.device_mesh)
        if local.numel() and key in self._stored:
            return self._stored[key]
        name = free_name(where, self.described)
        self._add(name, where, tensor, local.detach())
        self._stored[key] = name
        return name

    def _add(self, name: str, where: str, tensor: DTensor, local: Tensor) -> None:
        try:
            parts = owners(tensor)
            held = region_of(tensor).shape if tensor.device_mesh.get_coordinate() is not None else tuple(local.shape)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from error
        if held != tuple(local.shape):
            raise refusal(
                where,
                f"a DTensor with a piece of shape {tuple(local.shape)} in place of {held}",
                "lay it out as its placements say",
            )
        self.described[name] = Sharded(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), parts)
        if rank_and_world_size()[0] in {rank for rank, _ in parts}:
            self.own[name] = local.resolve_conj().resolve_neg().contiguous()


def _memory(x: Tensor) -> tuple[Any, ...]:
    flags = (x.is_conj(), x.is_neg())
    return (x.untyped_storage().data_ptr(), x.storage_offset(), x.shape, x.stride(), x.dtype, x.device, flags)
