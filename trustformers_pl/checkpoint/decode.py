"""The way back from a JSON tree and flat tensors to nested Python. Unknown tags are refused, nothing is executed."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustformers_pl.checkpoint.leaves import DECODE, TAG, numpy_dtype
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# The only callables a state may hold, by name: built-in and without side effects.
FACTORIES: dict[str, Callable[[], object] | None] = {
    "None": None,
    **{kind.__name__: kind for kind in (list, dict, set, int, float, str, bool, tuple)},
}


def decode(json_tree: Any, tensors: Mapping[str, Tensor], *, device: torch.device | None = None) -> Any:
    """Put together what `encode` took apart.

    Args:
        json_tree: The JSON tree.
        tensors: The tensors it names. The result shares their memory; a name used twice gives one tensor twice.
        device: Where tensors go; numpy arrays stay in host memory. Without it they stay where they are.

    Returns:
        The state: same types, same bits.

    Raises:
        CheckpointError: The tree has an unknown tag, a value its tag does not allow, or names a missing tensor.
    """
    try:
        return _Decoder(tensors, device).value(json_tree)
    # Any tree may come here, so any of these, from here or from numpy and torch, means that the tree is at fault.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the state tree is malformed: {type(error).__name__}: {error}") from error


class _Decoder:
    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device | None) -> None:
        self.tensors, self.device = tensors, device
        self.moved: dict[str, Tensor] = {}

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
            case "ndarray":
                return self.tensors[node["v"]].numpy().view(numpy_dtype(node["dtype"])).reshape(node["shape"])
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
            self.moved[name] = tensor if self.device is None else tensor.to(self.device)
        tensor = self.moved[name]
        if parameter:
            return torch.nn.Parameter(tensor, requires_grad=requires_grad)
        return tensor.detach().requires_grad_() if requires_grad else tensor
