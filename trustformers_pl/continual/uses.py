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

from trustformers_pl.continual.contributions import Through
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


@dataclass(frozen=True)
class Read:
    """A tensor among an operation's arguments that comes of parameters alone.

    Attributes:
        tensor: The parameter itself, or what was computed of parameters and no sample: a slice, a transposed matrix, a
            table of positions.
        sources: Name -> parameter that it comes of.
    """

    tensor: Tensor
    sources: Mapping[str, nn.Parameter]


class Uses(TorchFunctionMode):
    """Within this context, the uses of a module's trainable parameters are recorded; the numbers stay the same.

    Operations are seen where torch dispatches them (`__torch_function__`), so a call of `F.linear` with another
    layer's weight counts as the layer's own call does. Parameters are known by identity, so tied ones are one.

    Args:
        module: Whose parameters are meant.
        samples: How many are in the batch; None where that is not known before.

    Attributes:
        of: Name of a parameter -> its uses that have a rule.
        without_rule: Names of parameters that an operation without a rule read.
        in_graph: Name -> the parameter that was read, which under FSDP2 is not the module's outside a forward pass.
    """

    def __init__(self, module: nn.Module, samples: int | None = None) -> None:
        super().__init__()
        self.of: defaultdict[str, list[Use]] = defaultdict(list)
        self.without_rule: set[str] = set()
        self.in_graph = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._module, self._samples = module, samples
        self._known = self._parameters()
        self._fixed = {id(p) for p in module.parameters() if not p.requires_grad} | {id(b) for b in module.buffers()}

    def _parameters(self) -> dict[int, Read]:
        return {id(p): Read(p, {name: p}) for name, p in self._module.named_parameters() if p.requires_grad}

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
        tensors = list(_tensors((*args, *kwargs.values())))
        read = self._read(tensors)
        if read and func not in READS and torch.is_grad_enabled():
            for one in read.values():
                self.in_graph.update(one.sources)
            self._record(func, args, kwargs, output, read, alone=all(map(self._has_no_samples, tensors)))
        return output

    def _read(self, tensors: list[Tensor]) -> dict[int, Read]:
        if any(id(one) not in self._known and one.requires_grad and isinstance(one, nn.Parameter) for one in tensors):
            self._known |= self._parameters()  # FSDP2 puts other tensors in their place during the forward pass
        return {id(one): self._known[id(one)] for one in tensors if id(one) in self._known}

    def _has_no_samples(self, tensor: Tensor) -> bool:
        return id(tensor) in self._known or id(tensor) in self._fixed

    def _record(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        output: Any,
        read: dict[int, Read],
        *,
        alone: bool,
    ) -> None:
        rule = RULES.get(func)
        is_sampled = self._samples is None or (
            isinstance(output, Tensor) and bool(fitting(output.shape, self._samples))
        )
        if (rule is not None and not is_sampled) or (alone and func is not Tensor.expand):
            sources = {name: p for one in read.values() for name, p in one.sources.items()}
            self._known |= {id(one): Read(one, sources) for one in _tensors((output,)) if one.requires_grad}
            return
        if rule is not None and isinstance(output, Tensor) and output.requires_grad:
            edge = get_gradient_edge(output)
            for found in rule(*args, **kwargs):
                if (one := read.pop(id(found.parameter), None)) is not None:
                    self._add(one, found, edge, output.shape)
        self.without_rule.update(name for one in read.values() for name in one.sources)

    def _add(self, read: Read, found: Found, edge: GradientEdge, shape: Size) -> None:
        version, own = found.data._version, found._replace(data=found.data.detach())
        for name, parameter in read.sources.items():
            if read.tensor is not parameter:
                own = own._replace(contribution=Through(found.contribution, read.tensor, parameter))
            self.of[name].append(Use(own, edge, shape, version))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among values, and in lists of them: operations nest them no deeper."""
    for value in chain.from_iterable(one if isinstance(one, list | tuple) else (one,) for one in values):
        if isinstance(value, Tensor):
            yield value


@cache
def _opened(function: FunctionType) -> Callable[..., Any]:
    """A function of several operations, without its question whether a mode wants it as a whole."""
    own = {**function.__globals__, "has_torch_function": lambda _: False}
    return FunctionType(function.__code__, own, function.__name__, function.__defaults__, function.__closure__)
