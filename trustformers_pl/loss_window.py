"""Losses as sums: gradients of all micro-batches and ranks are divided once, by the count of all of them (rule A)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        self._counts: list[Tensor | float] = []

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
        self._counts.append(loss.count)
        total = self._with_terms(loss, terms, module) if terms else loss.sum
        if self._reference is None:
            count = as_count(loss.count)
            # One for all ranks, or their gradients could not be added.
            size = sum_over_data_ranks(count, module) if module.trainer.world_size > 1 else count
            self._reference = 2.0 ** round(math.log2(max(float(size), 1.0)))
        return total / self._reference

    @staticmethod
    def _with_terms(loss: Contribution, terms: Sequence[Contribution], module: LightningModule) -> Tensor:
        counts = torch.stack([as_count(part.count) for part in (loss, *terms)])
        if module.trainer.world_size > 1:
            counts = sum_over_data_ranks(counts, module)
        total = loss.sum
        for position, term in enumerate(terms, 1):
            total = total + term.weight * term.sum * (counts[0] / counts[position])
        return total

    def close(self, module: LightningModule) -> tuple[Tensor | None, Tensor]:
        """End the window.

        Returns:
            The factor for the accumulated gradients, None where it is known to be exactly 1, and the window's count on
            all data ranks: scalars, left on their device.
        """
        trainer = module.trainer
        counts, self._counts = [as_count(count) for count in self._counts], []
        count = counts[0] if len(counts) == 1 else torch.stack(counts).sum()
        ranks = 1
        if trainer.world_size > 1:
            count, ranks = sum_over_data_ranks(count, module), data_ranks(module)
        assert self._reference is not None
        # Lightning divides each loss by the number of micro-batches, and strategies average over the data ranks.
        parts = trainer.accumulate_grad_batches * ranks
        # Looking at a count is cheap on the CPU; elsewhere it would wait for the device.
        if parts == 1 and count.device.type == "cpu" and count.item() == self._reference:
            return None, count
        return self._reference * parts / count, count


def as_count(count: Tensor | float) -> Tensor:
    """A count as a float32 scalar on its device."""
    return count.float() if isinstance(count, Tensor) else torch.tensor(float(count))


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
