"""Losses as sums: gradients of all micro-batches and ranks are divided once, by the count of all of them (rule A)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning import LightningModule

    from trustformers_pl.steps import Contribution


class LossWindow:
    """The counts of one accumulation window.

    What is differentiated is the sum of the loss, over a fixed power of two that keeps its size near a mean's (the
    division is exact, so it changes no bit of the result). `close` gives the factor that makes the accumulated gradient
    that of the mean over the whole window, on all ranks, however unevenly the elements lie in it.

    A loss term counts as its own mean over a micro-batch of all ranks, weighted by that micro-batch's share of the
    loss's elements: for terms that count the same elements as the loss, and for terms of the weights alone, that is
    the mean over the window for any split.
    """

    def __init__(self) -> None:
        self._reference: float | None = None
        self._counts: list[Tensor] = []

    @property
    def is_open(self) -> bool:
        """Whether something has been weighed since the last `close`."""
        return bool(self._counts)

    def weigh(self, contributions: Mapping[str, Contribution], module: LightningModule) -> Tensor:
        """What to differentiate for one micro-batch of this rank.

        Args:
            contributions: The loss, under `loss`, and the loss terms by name.
            module: Whose Trainer knows the other ranks.

        Returns:
            A scalar. Its gradients, summed over the window and the data ranks and multiplied by `close`'s factor, are
            those of the mean loss plus the weighted means of the terms.
        """
        loss, *terms = contributions.values()
        counts = torch.stack([torch.as_tensor(c.count, dtype=torch.float32) for c in (loss, *terms)])
        self._counts.append(counts[0])
        if terms and module.trainer.world_size > 1:
            counts = sum_over_data_ranks(counts, module)
        if self._reference is None:
            self._reference = 2.0 ** round(math.log2(max(float(counts[0]), 1.0)))
        total = loss.sum
        for position, term in enumerate(terms, 1):
            total = total + term.weight * term.sum * (counts[0] / counts[position])
        return total / self._reference

    def close(self, module: LightningModule) -> tuple[Tensor, Tensor]:
        """End the window.

        Returns:
            The factor for the accumulated gradients, and the window's count on all data ranks: scalars, left on their
            device.
        """
        trainer = module.trainer
        count = torch.stack(self._counts).sum()
        self._counts = []
        ranks = 1
        if trainer.world_size > 1:
            count, ranks = sum_over_data_ranks(count, module), data_ranks(module)
        assert self._reference is not None
        # Lightning divides each loss by the number of micro-batches, and strategies average over the data ranks.
        return self._reference * trainer.accumulate_grad_batches * ranks / count, count


def sum_over_data_ranks(values: Tensor, module: LightningModule) -> Tensor:
    """The sum of a tensor over the ranks that see different data."""
    strategy = module.trainer.strategy
    own = getattr(strategy, "sum_over_data_ranks", None)
    summed: Tensor = own(values) if own else strategy.reduce(values, reduce_op="sum")
    return summed


def data_ranks(module: LightningModule) -> int:
    """How many ranks see different data."""
    strategy = module.trainer.strategy
    return int(getattr(strategy, "data_ranks", module.trainer.world_size))
