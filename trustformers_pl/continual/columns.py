"""The columns of a progressive network, and the lateral connections by which one reads those before it.

Rusu et al. 2016, "Progressive Neural Networks". A column is a module of any kind that computes its *levels*, children
of it, one after another; what level i reads is h_{i-1} of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

Activation = Callable[[Tensor], Tensor]
Kind = Literal["linear", "adapter"]


class LinearLateral(nn.Module):
    """sum_j U_j h_j over the earlier columns (equation 2). Starts at zero, so that a new column begins on its own.

    Args:
        sources: Widths of the earlier columns' activations.
        width: Of the level that it is added to.
        level: The level; of an `nn.Conv2d` U is a convolution of its geometry.
    """

    def __init__(self, sources: Sequence[int], width: int, level: nn.Module | None = None) -> None:
        super().__init__()
        self.u = nn.ModuleList(_zero(source, width, level) for source in sources)

    @override
    def forward(self, earlier: Sequence[Tensor]) -> Tensor:
        """Activations (..., source) of each earlier column to (..., width); (B, source, H, W) for convolutions."""
        return torch.stack([u(h) for u, h in zip(self.u, earlier, strict=True)]).sum(0)


class AdapterLateral(nn.Module):
    """U f(V (alpha * h)) with h the earlier columns' activations in one vector (equation 3): a narrow hidden layer.

    U starts at zero, as in `LinearLateral`; alpha, one for each earlier column, at 1. For an `nn.Conv2d` V is a 1 x 1
    convolution and U one of the level's geometry.

    Args:
        sources: Widths of the earlier columns' activations.
        width: Of the level that it is added to.
        level: The level.
        hidden: Width of V's output; by default that of one column's activations, as in the paper.
        activation: f.
    """

    def __init__(
        self,
        sources: Sequence[int],
        width: int,
        level: nn.Module | None = None,
        hidden: int | None = None,
        activation: Activation = F.relu,
    ) -> None:
        super().__init__()
        hidden = hidden or sources[-1]
        self.axis = 1 if isinstance(level, nn.Conv2d) else -1
        self.alpha = nn.Parameter(torch.ones(len(sources)))
        self.v = nn.Conv2d(sum(sources), hidden, 1) if self.axis == 1 else nn.Linear(sum(sources), hidden)
        self.u = _zero(hidden, width, level)
        self.activation = activation

    @override
    def forward(self, earlier: Sequence[Tensor]) -> Tensor:
        """Activations (..., source) of each earlier column to (..., width); (B, source, H, W) for convolutions."""
        scaled = [alpha * h for alpha, h in zip(self.alpha, earlier, strict=True)]
        return self.u(self.activation(self.v(torch.cat(scaled, self.axis))))  # type: ignore[no-any-return]


def _zero(source: int, width: int, level: nn.Module | None) -> nn.Module:
    """U: a map without bias that starts at zero."""
    made: nn.Linear | nn.Conv2d
    if isinstance(level, nn.Conv2d):
        geometry: dict[str, Any] = {
            key: getattr(level, key) for key in ("stride", "padding", "dilation", "padding_mode")
        }
        made = nn.Conv2d(source, width, level.kernel_size, bias=False, **geometry)  # type: ignore[arg-type]
    else:
        made = nn.Linear(source, width, bias=False)
    nn.init.zeros_(made.weight)
    return made


class Column(nn.Module):
    """One task's module, with connections from earlier columns: what `laterals[i-1]` gives is added to level i.

    The module is left as it is: hooks at its levels read and add. Where a level is a linear map and an activation
    follows it, this is h_i = f(W_i h_{i-1} + lateral), the paper's equation.

    Args:
        body: The module.
        levels: Dotted names in it, in the order in which it calls them, each once.
        laterals: One for each level but the first; none for the first column.
    """

    def __init__(self, body: nn.Module, levels: Sequence[str], laterals: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.body = body
        self.levels = tuple(levels)
        self.laterals = nn.ModuleList(laterals)
        self._reading: Reading | None = None
        self._frozen: tuple[str, ...] = ()
        self._tapped: list[tuple[nn.Module, list[Any]]] = []

    @override
    def forward(self, earlier: Sequence[Sequence[Tensor]], /, *args: Any, **kwargs: Any) -> tuple[Any, Reading]:
        """Compute the module.

        Args:
            earlier: What the levels of each earlier column read on the same input.
            args: Of the module.
            kwargs: Of the module.

        Returns:
            What the module gives, and what its levels read.

        Raises:
            RefusedError: A level was not called, or more than once.
        """
        reading = self.begin(earlier)
        outputs = self.during(reading, self.body, *args, **kwargs)
        for name, calls in zip(self.levels, reading.calls, strict=True):
            if calls != 1:
                raise RefusedError(f"progressive: level {name} was called {calls} times in one pass; name others")
        return outputs, reading

    def begin(self, earlier: Sequence[Sequence[Tensor]]) -> Reading:
        """Start a pass, of which `during` computes parts; see `forward`."""
        self._tap()
        return Reading(earlier, self.laterals, len(self.levels))

    def during(self, reading: Reading, part: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        """Call the module, or a part of it, as part of a pass."""
        self._reading = reading
        try:
            return part(*args, **kwargs)
        finally:
            self._reading = None

    def freeze(self) -> None:
        """Let nothing of it train; `thaw` takes that back."""
        self._frozen += tuple(name for name, parameter in self.named_parameters() if parameter.requires_grad)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    def thaw(self) -> None:
        """Let train what trained before it was frozen."""
        for name in self._frozen:
            self.get_parameter(name).requires_grad_(True)
        self._frozen = ()

    def _tap(self) -> None:
        """Put hooks at the levels, unless they are there: a later change of the module may have replaced some."""
        found = [self.body.get_submodule(name) for name in self.levels]
        if len(self._tapped) == len(found) and all(
            one is old for one, (old, _) in zip(found, self._tapped, strict=True)
        ):
            return
        for _, handles in self._tapped:
            for handle in handles:
                handle.remove()
        self._tapped = [(level, _Tap(self, index).put_at(level)) for index, level in enumerate(found)]


class Reading:
    """One pass through a column.

    Attributes:
        inputs: What each level read.
        widths: Of what each level read and gave.
        calls: How often each level was called.
    """

    def __init__(self, earlier: Sequence[Sequence[Tensor]], laterals: nn.ModuleList, levels: int) -> None:
        self.earlier, self.laterals = earlier, laterals
        self.inputs: list[Tensor] = [None] * levels  # type: ignore[list-item]
        self.widths: list[tuple[int, int]] = [(0, 0)] * levels
        self.calls = [0] * levels

    def add(self, index: int, level: nn.Module, output: Any) -> Any:
        """A level's output with what it reads of earlier columns."""
        first = output[0] if isinstance(output, tuple) else output
        axis = _axis(level, first)
        self.widths[index] = (self.inputs[index].shape[axis], first.shape[axis])
        if not index or not self.laterals:
            return output
        sum_ = first + self.laterals[index - 1]([one[index] for one in self.earlier])
        return (sum_, *output[1:]) if isinstance(output, tuple) else sum_


class _Tap:
    """The hooks of one level; outside of the column's own forward pass they do nothing."""

    def __init__(self, column: Column, index: int) -> None:
        self.column, self.index = column, index

    def put_at(self, level: nn.Module) -> list[Any]:
        return [level.register_forward_pre_hook(self.before, with_kwargs=True), level.register_forward_hook(self.after)]

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        reading = self.column._reading
        if reading is not None:
            reading.calls[self.index] += 1
            reading.inputs[self.index] = next(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor))

    def after(self, level: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
        reading = self.column._reading
        return None if reading is None else reading.add(self.index, level, output)


def _axis(level: nn.Module, output: Tensor) -> int:
    """Where a level's output has its features."""
    if isinstance(level, nn.Conv2d):
        return 1
    if output.dim() == 4 and not isinstance(level, nn.Linear):
        raise RefusedError(
            f"progressive: a level that is a {type(level).__name__} gives images, and its geometry is not known; name "
            "the nn.Conv2d in it as the level"
        )
    return -1
