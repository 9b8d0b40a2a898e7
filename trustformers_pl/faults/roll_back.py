"""What a run does about gradients that are not finite, by going back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.faults.going_back import are_finite
from trustformers_pl.faults.rollbacks import Rollbacks
from trustformers_pl.gradients import GradientPhase
from trustformers_pl.precision_order import gradient_order
from trustformers_pl.stateful import State

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from trustformers_pl.gradients import GradientStep


class RollBack(Callback):
    """Goes back to the newest checkpoint with finite weights when gradients, or the weights themselves, are not finite.

    The step that found it is left out, and nothing is saved before the run has gone back. Overflows that a loss scale
    takes care of are left to it, `max_consecutive` in a row. In a stock Trainer:
    `Trainer(callbacks=[RollBack(), Checkpoint()], plugins=[OrderedPrecision()])`.

    Args:
        max_rollbacks: After so many the run stops.
        skip_batches: Optimizer steps left out after going back, besides the data since the checkpoint.
        max_consecutive: Overflows in a row that a loss scale may have.

    Attributes:
        rollbacks: What was done so far.
    """

    def __init__(self, max_rollbacks: int = 3, skip_batches: int = 0, max_consecutive: int = 10) -> None:
        self.rollbacks = Rollbacks(max_rollbacks, skip_batches)
        self.max_consecutive = max_consecutive
        self._in_a_row = 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the gradient order.

        Raises:
            RefusedError: Nobody saves this run, or the Trainer has no gradient order.
        """
        if stage == "fit":
            self.rollbacks.prepare(trainer, type(self).__name__)
            gradient_order(trainer, type(self).__name__).add(GradientPhase.FINITE, self.decide)

    def decide(self, step: GradientStep) -> None:
        """Leave the step out if it is not finite, or if it is one of those after a roll-back."""
        scaled_down = step.skip
        step.skip |= self.rollbacks.leaves_out()
        self._in_a_row = 0 if step.finite else self._in_a_row + 1
        if step.finite or (scaled_down and self._in_a_row <= self.max_consecutive):
            return
        step.skip, self._in_a_row = True, 0
        number = step.module.trainer.global_step + 1
        self.rollbacks.cause = f"optimizer step {number}: the gradients are not finite"

    def on_step_boundary(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back, where there is a cause; before anybody saves.

        Raises:
            NonFiniteError: The run has gone back often enough, or there is nothing to go back to.
        """
        if self.rollbacks.cause is None and not are_finite(pl_module.parameters()):
            self.rollbacks.cause = f"optimizer step {trainer.global_step}: the weights are not finite"
        self.rollbacks.at_boundary(trainer)

    def state(self) -> State:
        """What was counted."""
        return State({**self.rollbacks.state(), "in_a_row": self._in_a_row})

    def load_state(self, state: State) -> None:
        """Go on counting."""
        self.rollbacks.load_state(state.value)
        self._in_a_row = state.value["in_a_row"]
