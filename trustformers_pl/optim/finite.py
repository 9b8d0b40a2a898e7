"""What a run does about gradients that are not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.errors import NonFiniteError
from trustformers_pl.gradients import GradientPhase
from trustformers_pl.precision_order import gradient_order
from trustformers_pl.stateful import State

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from trustformers_pl.gradients import GradientStep


class SkipNonFinite(Callback):
    """Leaves out the optimizer steps whose gradients are not finite, as loss scaling does; schedules wait meanwhile.

    For rare batches that overflow. A run whose weights are spoiled would skip for ever, so it stops after some steps.
    In a stock Trainer: `Trainer(callbacks=[SkipNonFinite()], plugins=[OrderedPrecision()])`.

    Args:
        max_consecutive: Steps left out in a row after which the run stops.

    Attributes:
        skipped: Steps left out so far, those that a loss scale asked for included.
    """

    def __init__(self, max_consecutive: int = 10) -> None:
        self.max_consecutive = max_consecutive
        self.skipped = self._in_a_row = 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the gradient order."""
        if stage == "fit":
            gradient_order(trainer, type(self).__name__).add(GradientPhase.FINITE, self.decide)

    def decide(self, step: GradientStep) -> None:
        """Skip the step if it is not finite.

        Raises:
            NonFiniteError: Too many in a row.
        """
        self._in_a_row = 0 if step.finite else self._in_a_row + 1
        if step.finite:
            return
        if self._in_a_row > self.max_consecutive:
            raise NonFiniteError(
                f"optimizer step {step.module.trainer.global_step + 1}: the gradients of {self._in_a_row} steps in a "
                "row are not finite; the weights are untouched; lower the learning rate or clip gradients, and go on "
                "from the last checkpoint"
            )
        self.skipped += 1
        step.skip = True

    def state(self) -> State:
        """What was counted."""
        return State({"skipped": self.skipped, "in_a_row": self._in_a_row})

    def load_state(self, state: State) -> None:
        """Go on counting."""
        self.skipped, self._in_a_row = state.value["skipped"], state.value["in_a_row"]
