"""Modules whose loss is taken apart into (sum, count), so that features can add to it and divide it right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.steps import LossTerm, StepExecutor, sequential

if TYPE_CHECKING:
    from torch import Tensor


class DecomposedLoss:
    """Mixin that makes a LightningModule composable: write `forward(batch)` and `loss(outputs, batch)`, nothing else.

    *What* is computed enters through `loss_terms`; *how* a step runs is the executor in the `step` slot. Works in a
    stock `lightning.Trainer`: `class MyModule(DecomposedLoss, LightningModule)`.
    """

    loss_terms: tuple[LossTerm, ...] = ()
    step_executor: StepExecutor = staticmethod(sequential)

    if TYPE_CHECKING:  # given by LightningModule, and by the module's author

        def __call__(self, batch: Any) -> Any: ...  # noqa: D102
        def log(self, *args: Any, **kwargs: Any) -> None: ...  # noqa: D102

        def loss(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
            """Sum of the loss over the batch's valid elements, and their number (both scalar tensors)."""

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Run the step slot's executor; `loss` in its result is differentiated by Lightning."""
        del batch_idx
        return self.step_executor(self, batch)

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Log `val_loss`, the mean over all valid elements of the validation set (nats, for a cross-entropy)."""
        del batch_idx
        loss_sum, count = self.loss(self(batch), batch)
        self.log("val_loss", loss_sum / count, batch_size=int(count))
        return {"loss_sum": loss_sum, "count": count}
