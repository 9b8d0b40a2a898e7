"""Whether the counts of a window were those declared: told from sums of products, so that all ranks tell the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from trustformers_pl.errors import CountError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from trustformers_pl.steps import Counted

OUT_OF_PROPORTION = 1e-12  # of float64 rounding in a Cauchy-Schwarz inequality; 1 in 1e6 elements is far above it
MISCOUNTED = 1e-6  # relative to the count
ONE, LOSS = 0, 1  # columns of the products, before those of the terms


@dataclass(frozen=True)
class WindowCounts:
    """The counts of a window on all data ranks, and what was said of them.

    Attributes:
        declared: What each contribution counts, by name; the loss, which comes first, has None.
        expected: Counts of the window by name, where it was counted ahead: scalars.
        products: (P + 1, P + 1), float64: sums over micro-batches and data ranks of the products of two counts; the
            first row is of a constant 1, the others of the P contributions.
    """

    declared: Mapping[str, Counted | None]
    expected: Mapping[str, Tensor]
    products: Tensor

    @property
    def of_loss(self) -> Tensor:
        """The count of the loss: a scalar."""
        return self.products[ONE, LOSS].float()

    def verify(self) -> None:
        """Compare. On an accelerator this waits for the device.

        Raises:
            CountError: One line for each contribution whose counts are not those declared.
        """
        products = self.products.cpu()
        lines = [
            line
            for column, (name, counted) in enumerate(self.declared.items(), LOSS)
            if (line := self._fault(products, column, name, counted)) is not None
        ]
        if lines:
            raise CountError("\n".join(lines))

    def _fault(self, products: Tensor, column: int, name: str, counted: Counted | None) -> str | None:
        if name in self.expected:
            return miscounted(name, column, float(self.expected[name]), float(products[ONE, column]))
        if counted == "loss" and not proportional(products, LOSS, column):
            return (
                f'loss term {name!r}: count="loss", but its counts are in no fixed proportion to those of the loss; '
                "give it count=function, (module, batch) -> its count"
            )
        if counted == "weights" and not proportional(products, ONE, column):
            return (
                f'loss term {name!r}: count="weights", but its counts differ from batch to batch; give it '
                'count="loss", or count=function, (module, batch) -> its count'
            )
        return None


def miscounted(name: str, column: int, expected: float, found: float) -> str | None:
    """What is wrong when the window was counted ahead and the forward passes counted something else."""
    if abs(found - expected) <= MISCOUNTED * abs(found):
        return None
    who = "the module: `loss_count`" if column == LOSS else f"loss term {name!r}: its `count`"
    return f"{who} gave {expected:g} for an accumulation window whose forward passes counted {found:g}; make them agree"


def proportional(products: Tensor, one: int, other: int) -> bool:
    """Whether two counts have a fixed ratio: then, and only then, Cauchy and Schwarz's inequality is an equation.

    Args:
        products: As in `WindowCounts`.
        one: Column of the first.
        other: Column of the second.
    """
    squares = products[one, one] * products[other, other]
    return bool(squares - products[one, other] ** 2 <= OUT_OF_PROPORTION * squares)


def products_of(counts: list[list[Tensor]]) -> Tensor:
    """This rank's part of `WindowCounts.products`.

    Args:
        counts: Of each micro-batch, those of its P contributions, as scalars on one device.
    """
    table = torch.stack([torch.stack(row) for row in counts]).double()
    table = torch.cat([torch.ones_like(table[:, :1]), table], dim=1)
    return table.T @ table
