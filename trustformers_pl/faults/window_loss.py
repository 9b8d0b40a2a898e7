"""The loss that an optimizer step is made from, known before the step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.loss_window import data_ranks, sum_over_data_ranks

if TYPE_CHECKING:
    from torch import Tensor

    from trustformers_pl.gradients import GradientStep


class WindowLoss:
    """Adds up what is differentiated in one accumulation window, on its device: nothing waits for it before `mean`.

    Attributes:
        sum: Scalar tensor; None before the first micro-batch.
    """

    def __init__(self) -> None:
        self.sum: Tensor | None = None

    def begin(self) -> None:
        """Forget: a window begins."""
        self.sum = None

    def add(self, differentiated: Tensor) -> None:
        """Take up a micro-batch's scalar, as `on_before_backward` is given it."""
        loss = differentiated.detach()
        self.sum = loss if self.sum is None else self.sum + loss

    def mean(self, step: GradientStep) -> float | None:
        """The mean of the loss, with its terms, over the micro-batches and data ranks of a step. Collective.

        It is the number whose gradient the step takes: where the loss is taken apart, the mean over all elements;
        otherwise the mean of the ranks' and micro-batches' own means.

        Args:
            step: Before its optimizer has stepped: a loss scale is still the one of its backward passes.

        Returns:
            The same number on all ranks; None where nothing was differentiated.
        """
        if self.sum is None:
            return None
        mean, trainer = self.sum.float(), step.module.trainer
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            mean = mean / scaler.get_scale()
        if trainer.world_size > 1:
            mean = sum_over_data_ranks(mean, step.module) / data_ranks(step.module)
        return float(mean if step.factor is None else mean * step.factor)
