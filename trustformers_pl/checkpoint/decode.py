"""The way back from a JSON tree and flat tensors to nested Python. Unknown tags are refused, nothing is executed."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustformers_pl.checkpoint.leaves import DECODE, TAG, numpy_dtype, read_dtype
from trustformers_pl.errors import CheckpointError
from trustformers_pl.pieces import Pieces

if TYPE_CHECKING:
    from collections.abc import Callable

# The only callables a state may hold, by name: built-in and without side effects.
FACTORIES: dict[str, Callable[[], object] | None] = {
    "None": None,
    **{kind.__name__: kind for kind in (list, dict, set, int, float, str, bool, tuple)},
}


Files = Mapping[int, Mapping[str, Tensor]]


def decode(
    json_tree: Any,
    tensors: Mapping[str, Tensor],
    *,
    device: torch.device | None = None,
    parts: Files | None = None,
    pieces: bool = False,
    own: bool = False,
) -> Any:
    """Put together what `encode` took apart.

    Args:
        json_tree: The JSON tree.
        tensors: The tensors it names. The result shares their memory; a name used twice gives one tensor twice.
        device: Where tensors go; numpy arrays stay in host memory. Without it they stay where they are.
        parts: The tensors that ranks other than 0 wrote, by rank: pieces of those that lay on several.
        pieces: Give tensors that lay on several ranks as `Pieces`, and not put together in memory of their own.
        own: Give all tensors memory of their own.

    Returns:
        The state: same types, same bits.

    Raises:
        CheckpointError: The tree has an unknown tag, a value its tag does not allow, or names a missing tensor.
    """
    try:
        return _Decoder({**(parts or {}), 0: tensors}, device, pieces=pieces, own=own).value(json_tree)
    # Any tree may come here, so any of these, from here or from numpy and torch, means that the tree is at fault.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the state tree is malformed: {type(error).__name__}: {error}") from error


class _Decoder:
    def __init__(self, files: Files, device: torch.device | None, *, pieces: bool, own: bool) -> None:
        self.files, self.tensors, self.device, self.pieces, self.own = files, files[0], device, pieces, own
        self.moved: dict[str, Tensor] = {}
        self.joined: dict[str, Tensor | Pieces] = {}

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.value(item) for item in node]
        if not isinstance(node, dict):
            return node
        if TAG not in node:
            return {key: self.value(item) for key, item in node.items()}
        return self.tagged(node[TAG], node)

    def tagged(self, tag: str, node: dict[str, Any]) -> Any:
        if (leaf := DECODE.get(tag)) is not None:
            return leaf(node)
        match tag:
            case "Tensor" | "Parameter":
                return self.tensor(node, parameter=tag == "Parameter")
            case "Sharded":
                return self.sharded(node)
            case "ndarray":
                return self.array(node)
            case "tuple":
                return tuple(self.value(node["v"]))
            case "set":
                return set(self.value(node["v"]))
            case "frozenset":
                return frozenset(self.value(node["v"]))
            case "dict":
                return self.pairs(node)
            case "OrderedDict" | "Counter" | "defaultdict":
                return self.special(tag, node)
        raise CheckpointError(
            f"the state tree has the unknown tag {tag!r}: it was written by something newer or foreign"
        )

    def pairs(self, node: dict[str, Any]) -> dict[Any, Any]:
        return {self.value(key): self.value(item) for key, item in node["v"]}

    def special(self, tag: str, node: dict[str, Any]) -> Any:
        if tag == "defaultdict":
            return defaultdict(FACTORIES[node["factory"]], self.pairs(node))
        made: Any = OrderedDict(self.pairs(node)) if tag == "OrderedDict" else Counter(self.pairs(node))
        if "metadata" in node:
            made._metadata = self.value(node["metadata"])
        return made

    def tensor(self, node: dict[str, Any], *, parameter: bool) -> Tensor:
        name, requires_grad = node["v"], node.get("requires_grad") is True
        if name not in self.moved:
            tensor = self.tensors[name]
            self.moved[name] = tensor.to(device=self.device, copy=self.own)
        tensor = self.moved[name]
        if parameter:
            return torch.nn.Parameter(tensor, requires_grad=requires_grad)
        return tensor.detach().requires_grad_() if requires_grad else tensor

    def array(self, node: dict[str, Any]) -> Any:
        flat = self.tensors[node["v"]].numpy()
        return (flat.copy() if self.own else flat).view(numpy_dtype(node["dtype"])).reshape(node["shape"])

    def sharded(self, node: dict[str, Any]) -> Tensor | Pieces:
        name = node["v"]
        if name not in self.joined:
            found = self.found(name, node)
            self.joined[name] = found if self.pieces else found.whole().to(self.device)
        return self.joined[name]

    def found(self, name: str, node: dict[str, Any]) -> Pieces:
        shape, dtype = torch.Size(node["shape"]), read_dtype(node["dtype"])
        held = [(tuple(offset), self.files[rank][name]) for rank, offset, _ in node["parts"]]
        for (offset, piece), (_, _, told) in zip(held, node["parts"], strict=True):
            ends = [begin + size for begin, size in zip(offset, piece.shape, strict=True)]
            if list(piece.shape) != told or piece.dtype != dtype or min(offset, default=0) < 0:
                raise ValueError(f"a piece of {name} is not what the tree says")
            if any(end > size for end, size in zip(ends, shape, strict=True)):
                raise ValueError(f"a piece of {name} is outside of it")
        if sum(piece.numel() for _, piece in held) != shape.numel():
            raise ValueError(f"the pieces of {name} are not all of it")
        return Pieces(shape, dtype, held)
