"""Every use of a parameter in a forward pass, recorded while it happens."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import chain
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Size, Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trustformers_pl.continual.layouts import Layout, fitting
from trustformers_pl.continual.rules import READS, RULES, Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


@dataclass(frozen=True)
class Use:
    """One operation that read a parameter.

    Attributes:
        found: Its rule and what the rule reads.
        edge: Where in the graph the gradient of the operation's output is; an operation in place cannot move it.
        shape: Of the output.
        version: Of the data, to see whether an operation in place changed them.
    """

    found: Found
    edge: GradientEdge
    shape: Size
    version: int

    @property
    def unchanged(self) -> bool:
        """Whether the data are still those that the operation read."""
        return self.found.data._version == self.version

    def layouts(self, samples: int) -> tuple[Layout, ...]:
        """Where the samples may be."""
        return tuple(layout for layout in fitting(self.shape, samples) if layout in self.found.layouts)


class Uses(TorchFunctionMode):
    """Within this context, the uses of a module's trainable parameters are recorded; the numbers stay the same.

    Operations are seen where torch dispatches them (`__torch_function__`), so a call of `F.linear` with another
    layer's weight counts as the layer's own call does. Parameters are known by identity, so tied ones are one.

    Attributes:
        of: Name of a parameter -> its uses that have a rule.
        without_rule: Names of parameters that an operation without a rule read.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.of: defaultdict[str, list[Use]] = defaultdict(list)
        self.without_rule: set[str] = set()
        self._module = module
        self._names = self._by_identity()

    def _by_identity(self) -> dict[int, str]:
        return {id(p): name for name, p in self._module.named_parameters() if p.requires_grad}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation, and note which parameters it read."""
        del types
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _opened(func)(*args, **kwargs)
        output = func(*args, **kwargs)
        read = self._read(args, kwargs)
        if read and func not in READS and torch.is_grad_enabled():
            self._record(func, args, kwargs, output, read)
        return output

    def _read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[int, str]:
        leaves = [leaf for leaf in _leaves((*args, *kwargs.values())) if leaf.requires_grad]
        if any(id(leaf) not in self._names for leaf in leaves):
            self._names |= self._by_identity()  # FSDP2 puts other tensors in their place during the forward pass
        return {id(leaf): self._names[id(leaf)] for leaf in leaves if id(leaf) in self._names}

    def _record(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any, read: dict[int, str]
    ) -> None:
        rule = RULES.get(func)
        if rule is not None and isinstance(output, Tensor) and output.requires_grad:
            edge = get_gradient_edge(output)
            for one in rule(*args, **kwargs):
                name = read.get(id(one.parameter))
                if name is not None:
                    del read[id(one.parameter)]
                    data = one._replace(data=one.data.detach())
                    self.of[name].append(Use(data, edge, output.shape, one.data._version))
        self.without_rule.update(read.values())


def _leaves(values: Iterable[Any]) -> Iterator[nn.Parameter]:
    """Parameters among arguments, and in lists of them: operations nest them no deeper."""
    for value in chain.from_iterable(one if isinstance(one, list | tuple) else (one,) for one in values):
        if isinstance(value, nn.Parameter):
            yield value


@cache
def _opened(function: FunctionType) -> Callable[..., Any]:
    """A function of several operations, without its question whether a mode wants it as a whole."""
    own = {**function.__globals__, "has_torch_function": lambda _: False}
    return FunctionType(function.__code__, own, function.__name__, function.__defaults__, function.__closure__)
