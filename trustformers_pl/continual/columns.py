"""Progressive networks: a new column of layers for each task, which also reads the frozen columns before it.

Rusu et al. 2016, "Progressive Neural Networks".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

Activation = Callable[[Tensor], Tensor]


class LinearLateral(nn.Module):
    """sum_j U_j h_j over the earlier columns (equation 2). Starts at zero, so that a new column begins on its own.

    Args:
        sources: Widths of the earlier columns' activations.
        width: Of the layer that it is added to.
    """

    def __init__(self, sources: Sequence[int], width: int) -> None:
        super().__init__()
        self.u = nn.ModuleList(nn.Linear(source, width, bias=False) for source in sources)
        for one in self.u:
            nn.init.zeros_(one.weight)  # type: ignore[arg-type]

    @override
    def forward(self, earlier: Sequence[Tensor]) -> Tensor:
        """Activations (..., source) of each earlier column to (..., width)."""
        return torch.stack([u(h) for u, h in zip(self.u, earlier, strict=True)]).sum(0)


class AdapterLateral(nn.Module):
    """U f(V (alpha * h)) with h the earlier columns' activations in one vector (equation 3): a narrow hidden layer.

    U starts at zero, as in `LinearLateral`; alpha, one for each earlier column, at 1.

    Args:
        sources: Widths of the earlier columns' activations.
        width: Of the layer that it is added to.
        hidden: Width of V's output; by default that of one column's activations, as in the paper.
        activation: f.
    """

    def __init__(
        self, sources: Sequence[int], width: int, hidden: int | None = None, activation: Activation = F.relu
    ) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(len(sources)))
        self.v = nn.Linear(sum(sources), hidden or sources[-1])
        self.u = nn.Linear(hidden or sources[-1], width, bias=False)
        self.activation = activation
        nn.init.zeros_(self.u.weight)

    @override
    def forward(self, earlier: Sequence[Tensor]) -> Tensor:
        """Activations (..., source) of each earlier column to (..., width)."""
        scaled = [alpha * h for alpha, h in zip(self.alpha, earlier, strict=True)]
        return self.u(self.activation(self.v(torch.cat(scaled, -1))))  # type: ignore[no-any-return]


class Column(nn.Module):
    """The layers of one task: h_i = f(layer_i(h_{i-1}) + lateral_i(h_{i-1} of the earlier columns)).

    The first layer reads the input alone; the last one has no f. As many layers as the earlier columns.

    Args:
        layers: (..., widths[i-1]) to (..., widths[i]) each, such as `nn.Linear`.
        widths: Of the layers' outputs.
        earlier: `widths` of each earlier column.
        lateral: Makes the connection from sources of some widths to a width.
        activation: f.

    Raises:
        ValueError: Numbers of layers differ.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        widths: Sequence[int],
        earlier: Sequence[Sequence[int]] = (),
        *,
        lateral: Callable[[Sequence[int], int], nn.Module] = LinearLateral,
        activation: Activation = F.relu,
    ) -> None:
        super().__init__()
        if {len(widths), *map(len, earlier)} != {len(layers)}:
            lengths = [len(one) for one in earlier]
            raise ValueError(f"{len(layers)} layers need as many widths, not {len(widths)}, and columns, not {lengths}")
        self.layers = nn.ModuleList(layers)
        self.widths = tuple(widths)
        self.activation = activation
        sources = [[one[level - 1] for one in earlier] for level in range(1, len(layers))] if earlier else []
        self.laterals = nn.ModuleList(lateral(s, width) for s, width in zip(sources, widths[1:], strict=False))

    @override
    def forward(self, x: Tensor, earlier: Sequence[Sequence[Tensor]] = ()) -> list[Tensor]:
        """All activations h_1 .. h_L, the last of which are the outputs.

        Args:
            x: The input.
            earlier: What this gave for each earlier column on the same input.
        """
        found: list[Tensor] = []
        for level, layer in enumerate(self.layers):
            h = layer(x if level == 0 else found[-1])
            if level and len(self.laterals):
                h = h + self.laterals[level - 1]([one[level - 1] for one in earlier])
            found.append(self.activation(h) if level < len(self.layers) - 1 else h)
        return found


class ProgressiveColumns(nn.Module):
    """Columns of which only the newest trains; the others are frozen, in evaluation mode, without a graph.

    Args:
        lateral: As for `Column`.
        activation: As for `Column`.
    """

    def __init__(
        self, *, lateral: Callable[[Sequence[int], int], nn.Module] = LinearLateral, activation: Activation = F.relu
    ) -> None:
        super().__init__()
        self.columns = nn.ModuleList()
        self.lateral, self.activation = lateral, activation

    def grow(self, layers: Sequence[nn.Module], widths: Sequence[int]) -> Column:
        """Freeze what is there and add a column for a new task.

        Args:
            layers: As for `Column`.
            widths: As for `Column`.

        Returns:
            The new column, whose parameters an optimizer has to take up.
        """
        self.requires_grad_(False)
        earlier = [column.widths for column in self._columns()]
        column = Column(layers, widths, earlier, lateral=self.lateral, activation=self.activation)
        self.columns.append(column)
        self.train(self.training)
        return column

    @override
    def train(self, mode: bool = True) -> ProgressiveColumns:
        """Switch the newest column; the frozen ones stay in evaluation mode."""
        super().train(mode)
        for column in self._columns()[:-1]:
            column.eval()
        return self

    @override
    def forward(self, x: Tensor, task: int = -1) -> Tensor:
        """The outputs of one task's column; columns after it are not computed.

        Args:
            x: The input.
            task: Which column, the newest by default.
        """
        columns = self._columns()
        last = range(len(columns))[task]
        earlier: list[list[Tensor]] = []
        with torch.no_grad():
            for column in columns[:last]:
                earlier.append(column(x, earlier))
        outputs: list[Tensor] = columns[last](x, earlier)
        return outputs[-1]

    def _columns(self) -> list[Column]:
        return [column for column in self.columns if isinstance(column, Column)]
