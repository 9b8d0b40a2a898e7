"""What a run does about spikes: steps whose loss or gradient is far larger than those before it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.errors import NonFiniteError
from trustformers_pl.faults.levels import Levels
from trustformers_pl.faults.rollbacks import Rollbacks
from trustformers_pl.faults.window_loss import WindowLoss
from trustformers_pl.gradients import GradientPhase
from trustformers_pl.precision_order import gradient_order
from trustformers_pl.stateful import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from trustformers_pl.gradients import GradientStep

logger = logging.getLogger(__name__)

LOSS, NORM = "loss", "grad_norm"
SHOWN = {LOSS: "the loss", NORM: "the gradient's norm"}


class Spikes(Callback):
    """Finds spikes of loss and gradient before they reach the weights, and leaves the step out, goes back, or stops.

    A spike is a value above the median of the last `window` steps by `factor` standard deviations, these estimated by
    the median absolute deviation (`robust_level.limit`), each series by its own. The norm is that of all ranks before
    clipping, the loss the mean over the step's micro-batches and ranks, so that all decide alike. Steps with a spike
    are no part of the windows, unless `max_consecutive` come in a row: then they are the new level.

    In a stock Trainer: `Trainer(callbacks=[Spikes()], plugins=[OrderedPrecision()])`, with `Checkpoint()` to go back.

    Args:
        factor: How far above the median.
        window: Steps.
        policy: `skip`, `roll_back` or `stop`.
        of: What is looked at: `loss`, `grad_norm`, or both.
        max_consecutive: Spikes in a row that are taken for the new level.
        max_rollbacks: Of `roll_back`: after so many the run stops.
        skip_batches: Of `roll_back`: optimizer steps left out after going back.

    Attributes:
        found: Spikes so far, also those after which the run went back.
        rollbacks: What was done by going back.
    """

    state_version = 2

    def __init__(
        self,
        factor: float = 10.0,
        window: int = 100,
        policy: str = "skip",
        *,
        of: Sequence[str] = (LOSS, NORM),
        max_consecutive: int = 10,
        max_rollbacks: int = 3,
        skip_batches: int = 0,
    ) -> None:
        self.of, self.policy = tuple(of), policy
        self.levels = Levels(self.of, factor, window, max_consecutive)
        self.rollbacks = Rollbacks(max_rollbacks, skip_batches)
        self.found = 0
        self._loss = WindowLoss()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the gradient order.

        Raises:
            RefusedError: The Trainer has no gradient order, or nobody saves a run that shall go back.
        """
        if stage != "fit":
            return
        if self.policy == "roll_back":
            self.rollbacks.prepare(trainer, type(self).__name__)
        gradient_order(trainer, type(self).__name__).add(GradientPhase.FINITE, self.decide)

    @override
    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """A window begins."""
        self._loss.begin()

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Take up a micro-batch's loss."""
        if LOSS in self.of:
            self._loss.add(loss)

    def decide(self, step: GradientStep) -> None:
        """Look at a step that is going to be taken.

        Raises:
            NonFiniteError: It is a spike, and the policy is to stop.
        """
        step.skip |= self.rollbacks.leaves_out()
        if step.skip or not step.finite or step.norm is None:
            return
        loss = self._loss.mean(step) if LOSS in self.of else None
        seen = {LOSS: loss, NORM: float(step.norm)}
        values = {name: value for name in self.of if (value := seen[name]) is not None}
        if (spike := self.levels.take(values)) is None:
            return
        self.found += 1
        name, highest = spike
        number = step.module.trainer.global_step + 1
        self._act(step, f"optimizer step {number}: a spike: {SHOWN[name]} is {values[name]:.3g}, above {highest:.3g}")

    def _act(self, step: GradientStep, cause: str) -> None:
        if self.policy == "stop":
            raise NonFiniteError(f"{cause}; the weights are untouched; go on from the last checkpoint")
        step.skip = True
        if self.policy == "roll_back":
            self.rollbacks.cause = cause
        elif step.module.trainer.is_global_zero:
            logger.warning("%s; the step is left out", cause)

    def on_step_boundary(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back, where there is a cause; before anybody saves.

        Raises:
            NonFiniteError: The run has gone back often enough, or there is nothing to go back to.
        """
        del pl_module
        if self.rollbacks.cause is not None:
            found, in_a_row = self.found, self.levels.in_a_row
            self.rollbacks.at_boundary(trainer)
            self.found, self.levels.in_a_row = found, in_a_row  # or no number of them would ever be the new level

    def state(self) -> State:
        """The windows, and what was counted."""
        counted = {**self.rollbacks.state(), "found": self.found, "window_loss": self._loss.sum}
        return State({**counted, **self.levels.state()}, self.state_version)

    def load_state(self, state: State) -> None:
        """Go on from them."""
        value = state.value
        self.rollbacks.load_state(value)
        self.found, self._loss.sum = value["found"], value.get("window_loss")
        if state.version == 1:  # of norms alone
            rows = [{NORM: norm} for norm in value["in_a_row"]]
            value = {"known": {NORM: value["norms"]}, "in_a_row": rows}
        self.levels.load_state(value)
