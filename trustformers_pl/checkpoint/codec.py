"""Nested Python <-> a JSON tree and flat tensors, exactly reversible. Nothing is pickled, nothing executed."""

from __future__ import annotations

import argparse
import json
from collections import ChainMap, Counter, OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trustformers_pl.checkpoint.decode import FACTORIES, decode
from trustformers_pl.checkpoint.leaves import NUMPY_KINDS, TAG, encode_leaf, tagged
from trustformers_pl.checkpoint.shards import DEPTH, Shards, free_name, sharded_leaves, too_deep
from trustformers_pl.checkpoint.tensorfile import DTYPES
from trustformers_pl.checkpoint.unstorable import describe, refusal
from trustformers_pl.pieces import Pieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["decode", "encode"]


def encode(tree: object, *, where: str = "", shards: Shards | None = None) -> tuple[Any, dict[str, Tensor]]:
    """Take nested Python apart into JSON and tensors, so that `decode` gives back the same types and bits.

    Stored exactly: dict (any storable key but tensors), list, tuple, set, frozenset, OrderedDict (with the `_metadata`
    of a module's state_dict), Counter, defaultdict with a built-in factory, None, bool, int, float, str, bytes, paths,
    torch.Size/dtype/device, numpy numbers and arrays, tensors and parameters of a dtype that safetensors knows.
    Stored as a plain dict: Lightning's AttributeDict and any Namespace. Stored as plain tensors of the same values:
    DTensors, of which this rank gives its own piece, and `Pieces`. Not kept: strides (tensors come back contiguous),
    the identity of lists, dicts and arrays that occur twice, the graph of a tensor that has one.

    Args:
        tree: What to store.
        where: The path of `tree` inside a larger state; it begins names and messages.
        shards: Of the tree's DTensors, if that is known already.

    Returns:
        The JSON tree, and the tensors it names: detached, contiguous, on their device, of unchanged shape. They share
        memory with `tree` where they can: copy them before training goes on. Equal views occur once.

    Raises:
        CheckpointError: Something can not be stored; the message gives its path.
    """
    encoder = _Encoder(Shards(sharded_leaves(tree, where)) if shards is None else shards)
    return encoder.node(tree, where, 0), encoder.tensors


def _is_attribute_dict(x: object) -> bool:
    # By name: importing Lightning takes seconds, and it has two of these classes.
    return type(x).__name__ == "AttributeDict" and type(x).__module__.split(".")[0].startswith(
        ("lightning", "pytorch_")
    )


class _Encoder:
    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.tensors: dict[str, Tensor] = dict(shards.own)
        self.taken = ChainMap[str, Any](self.tensors, shards.described)  # also what only other ranks write
        self.stored: dict[tuple[Any, ...], str] = {}

    def node(self, x: object, where: str, depth: int) -> Any:
        if (leaf := encode_leaf(x)) is not NotImplemented:
            return leaf
        if depth > DEPTH:
            raise too_deep(where)
        if isinstance(x, Tensor):
            return self.shards.node(x) if isinstance(x, DTensor) else self.tensor(x, where)
        if isinstance(x, Pieces):
            return self.tensor(x.whole(), where)
        if type(x) is np.ndarray:
            return self.array(x, where)
        return self.container(x, where, depth + 1)

    def container(self, x: Any, where: str, depth: int) -> Any:
        if type(x) is list:
            return self.items(x, where, depth)
        if type(x) in (tuple, set, frozenset):
            items = self.items(x, where, depth)
            # Equal sets give equal files, whatever the order of this process' hashes.
            return tagged(type(x).__name__, items if type(x) is tuple else sorted(items, key=json.dumps))
        if isinstance(x, argparse.Namespace):
            return self.mapping(vars(x), where, depth)
        if type(x) is dict or _is_attribute_dict(x):
            return self.mapping(x, where, depth)
        if type(x) in (OrderedDict, Counter, defaultdict):
            return self.special(x, where, depth)
        raise refusal(where, *describe(x))

    def items(self, x: Iterable[object], where: str, depth: int) -> list[Any]:
        return [self.node(item, f"{where}.{i}" if where else str(i), depth) for i, item in enumerate(x)]

    def pairs(self, x: Mapping[Any, object], where: str, depth: int) -> list[list[Any]]:
        return [
            [self.key(k, where, depth), self.node(v, f"{where}.{k}" if where else str(k), depth)] for k, v in x.items()
        ]

    def key(self, key: object, where: str, depth: int) -> Any:
        if isinstance(key, Tensor):
            raise refusal(where, "a tensor as a key", "use its name")
        return self.node(key, f"{where}.{key}", depth)

    def mapping(self, x: Mapping[Any, object], where: str, depth: int) -> Any:
        pairs = self.pairs(x, where, depth)
        plain = all(type(key) is str and key != TAG for key in x)
        return dict(pairs) if plain else tagged("dict", pairs)

    def special(self, x: dict[Any, object], where: str, depth: int) -> Any:
        node = tagged(type(x).__name__, self.pairs(x, where, depth))
        if (
            extra := {key: value for key, value in vars(x).items() if key != "_metadata"}
            if hasattr(x, "__dict__")
            else {}
        ):
            raise refusal(f"{where}.{next(iter(extra))}", "an attribute of a dict", "make it an item")
        if hasattr(x, "_metadata"):
            node["metadata"] = self.node(x._metadata, f"{where}._metadata", depth)
        if isinstance(x, defaultdict):
            if x.default_factory not in FACTORIES.values():
                raise refusal(where, f"a defaultdict of {x.default_factory!r}", "store dict(...) of it")
            node["factory"] = getattr(x.default_factory, "__name__", "None")
        return node

    def array(self, x: np.ndarray[Any, Any], where: str) -> Any:
        if x.dtype.kind not in NUMPY_KINDS:
            raise refusal(where, f"a numpy array of dtype {x.dtype}", "store its tolist()")
        # Always a copy: torch warns about sharing read-only memory.
        flat = np.array(x, order="C").reshape(-1).view(np.uint8)
        return tagged("ndarray", self.add(torch.from_numpy(flat), where), dtype=x.dtype.str, shape=list(x.shape))

    def tensor(self, x: Tensor, where: str) -> Any:
        if type(x) not in (Tensor, torch.nn.Parameter) or x.layout is not torch.strided or x.is_meta:
            raise refusal(
                where, f"a {type(x).__qualname__} of layout {x.layout} on {x.device}", "make it a dense tensor"
            )
        if x.dtype not in DTYPES.values():
            raise refusal(where, f"a tensor of {x.dtype}", "safetensors has no such dtype; convert it")
        node = tagged("Parameter" if type(x) is torch.nn.Parameter else "Tensor", self.share(x.detach(), where))
        return {**node, "requires_grad": True} if x.requires_grad else node

    def share(self, x: Tensor, where: str) -> str:
        flags = (x.is_conj(), x.is_neg())
        key = (x.untyped_storage().data_ptr(), x.storage_offset(), x.shape, x.stride(), x.dtype, x.device, flags)
        if x.numel() == 0:  # no memory, so nothing to share, and all of them would be at address 0
            return self.add(x, where)
        if key not in self.stored:
            self.stored[key] = self.add(x, where)
        return self.stored[key]

    def add(self, x: Tensor, where: str) -> str:
        name = free_name(where, self.taken)
        self.tensors[name] = x.resolve_conj().resolve_neg().contiguous()
        return name
